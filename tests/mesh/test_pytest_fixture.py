"""The `lab` fixture of other people's suites: the how-to's file runs, and a claim that is wrong says why and where."""

import sys
from pathlib import Path

import pytest
from scenario_lab import ROOT, ScenarioMesh, shipped_resources

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from documents import documents

from testbed.errors import BadInput
from testbed.lab.lab import Lab
from testbed.model.reading import read_inventory
from testbed.pytest_plugin import LabFixture

BOOKINFO = ROOT / "inventories/bookinfo.yaml"


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """The fixture as the plugin makes it; only what leads to the lab's nodes is the tests' own."""
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    with ScenarioMesh.from_inventory(BOOKINFO) as mesh:
        mesh.apply(shipped_resources("bookinfo"), limit=60)
        monkeypatch.setattr("testbed.workflows.verify.lab_under_test", lambda _: mesh.lab)
        monkeypatch.setattr("testbed.workflows.verify.require_up", lambda _: None)
        made = Lab(read_inventory(BOOKINFO.read_text().replace("id: bookinfo", "id: pytest-mesh"), str(BOOKINFO)))
        yield LabFixture(made, tmp_path / "evidence")


def test_the_how_tos_suite_passes_and_a_wrong_claim_fails_with_reason_and_bundle(lab, tmp_path):
    [page] = [d for d in documents() if d.path.stem == "pytest"]
    suite: dict = {}
    exec(compile(page.files["test_reviews.py"], str(page.path), "exec"), suite)
    suite["test_a_shipped_promise_holds"](lab)
    suite["test_every_review_can_be_read"](lab, "/reviews/0")
    suite["test_a_route_can_be_tried_without_changing_the_lab"](lab)
    when = {"from": "client", "service": "reviews", "requests": 5}
    with pytest.raises(pytest.fail.Exception) as failed:
        lab.check(name="wrong", when=when, expect={"status": 418})
    said = str(failed.value).splitlines()
    assert said[0] == "wrong: FAIL: expect status"
    assert said[1].startswith("  request 0: answered 404")
    assert (Path(said[2].removeprefix("  evidence: ")) / "report.html").is_file()
    assert len(list((tmp_path / "evidence").glob("*.tar.zst"))) == 4
    with pytest.raises(BadInput, match="unknown field 'stat'"):
        lab.check(when=when, expect={"stat": 418})
