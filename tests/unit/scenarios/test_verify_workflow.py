"""`verify` and `verify --mutants` on a mesh that is played: what they leave, also when they are interrupted."""

import json
from pathlib import Path
from xml.etree.ElementTree import parse as parse_xml

import pytest
from fake_lab import FakeMesh, weights

from testbed.cli import run
from testbed.errors import LabError
from testbed.lab.lab import Lab
from testbed.model.reading import read_inventory
from testbed.workflows import verify as workflow

INVENTORY = """\
id: played
nodes: [{name: one}]
services: [{name: reviews, ports: [{name: http, port: 9080}]}]
workloads: [{service: reviews, node: one}]
"""
HALF = """\
name: half
description: d
promise: half and half
when: {from: client, service: reviews, concurrency: 2, requests: 400}
expect: {split: {service: reviews, weights: {v1: 50, v2: 50}, tolerance: 15}}
"""


@pytest.fixture
def mesh(monkeypatch, tmp_path):
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text(INVENTORY)
    (tmp_path / "half.yaml").write_text(HALF)
    (tmp_path / "again.yaml").write_text(HALF.replace("half", "again", 1))
    fake = FakeMesh()
    monkeypatch.setattr(workflow, "lab_under_test", lambda _: fake.lab())
    monkeypatch.setattr(workflow, "require_up", lambda _: None)
    monkeypatch.setattr(Lab, "hypervisor_if_up", lambda _: None)
    yield fake
    fake.shutdown()
    fake.server_close()


def lab() -> Lab:
    return Lab(read_inventory(INVENTORY, "lab.yaml"))


def bundle() -> Path:
    [found] = [p for p in Path("evidence").iterdir() if p.is_dir()]
    return found


def test_what_interrupts_a_run_leaves_the_bundle_of_what_was_seen(mesh):
    def stop(_record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflow.verify(lab(), ["half.yaml", "again.yaml"], each=stop, evidence=Path("evidence"))
    [result] = json.loads((bundle() / "result.json").read_text())
    assert (result["scenario"], result["verdict"]["outcome"]) == ("half", "PASS")
    assert (bundle() / "half/1/samples.jsonl").stat().st_size > 1000
    assert bundle().with_name(bundle().name + ".tar.zst").is_file()
    assert not list(bundle().rglob(".*.partial"))


def test_a_report_shows_what_a_bundle_has(mesh, capsys, tmp_path):
    assert run(["verify", "-i", "lab.yaml", "half.yaml"]) == 0
    said = capsys.readouterr()
    assert str(bundle()) in said.err
    assert run(["report", "--json", str(bundle())]) == 0
    [result] = json.loads(capsys.readouterr().out)
    assert (result["scenario"], result["verdict"]["outcome"]) == ("half", "PASS")
    assert run(["report", "--junit", str(bundle())]) == 0
    assert 'tests="1" failures="0"' in capsys.readouterr().out
    assert run(["report", str(bundle())]) == 0
    page = Path(capsys.readouterr().out.strip().removeprefix("file://"))
    assert "half and half" in page.read_text()
    assert run(["report", str(tmp_path)]) == 2
    assert f"{tmp_path}: no bundle: it has no report.html" in capsys.readouterr().err


def test_versions_are_asked_of_the_proxies_and_the_guests(mesh):
    mesh.dead_nodes = {"three"}
    workflow.verify(lab(), ["half.yaml"], evidence=Path("evidence"))
    versions = json.loads((bundle() / "versions.json").read_text())
    assert versions["proxies"]["reviews-v1"] == "reviews-v1/1.2.3/Clean/RELEASE/BoringSSL"
    assert versions["kernels"]["one"] == "Linux 6.1 of one"
    assert versions["kernels"]["three"].startswith("not known: three: run true: ")
    assert {"node", "shared"} <= versions["images"].keys()


def test_each_steps_resources_are_in_its_folder(mesh):
    text = HALF.replace("when:", "steps:\n  - name: first\n    when:", 1).replace("\nexpect:", "\n    expect:")
    other = json.dumps(next(iter(weights(0, 100))).to_plain())
    text += "  - name: second\n    when: {from: client, service: reviews}\n    expect: {header: {name: x-version, equals: v2}}\n"
    Path("two.yaml").write_text(text + f"    given: {{resources: [{other}]}}\n")
    [record] = workflow.verify(lab(), ["two.yaml"], evidence=Path("evidence"))
    assert record.verdict.passed
    first, second = ((bundle() / "half" / step / "resources.yaml").read_text() for step in ("1-first", "2-second"))
    assert "weight: 50" in first and "weight: 50" not in second
    assert "weight: 100" in second
    page = (bundle() / "report.html").read_text()
    assert page.count("Resources in force") == 2


def test_a_mutation_runs_report_gives_the_score(mesh, capsys):
    assert run(["verify", "-i", "lab.yaml", "--mutants", "--json", "half.yaml"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert json.loads((bundle() / "result.json").read_text()) == said
    [score] = said
    assert (score["noticed"], score["counted"], score["percent"]) == (1, 1, 100.0)
    assert score["baseline"]["verdict"]["outcome"] == "PASS"
    assert score["mutants"][0]["mutant"] == "VirtualService reviews: http[0]: weights shifted by 30"
    assert score["mutants"][0]["result"] == "noticed"
    cases = parse_xml(bundle() / "junit.xml").getroot()
    assert [c.attrib["name"] for c in cases] == [
        "half [nothing broken]",
        "half [VirtualService reviews: http[0]: weights shifted by 30]",
    ]
    assert cases.attrib["failures"] == "0"
    assert "noticed 1 of 1 mutants (100%)" in (bundle() / "report.html").read_text()
    assert "weights shifted by 30\nFAIL: " in (bundle() / "half-mutant/mutant.txt").read_text()
    assert run(["report", "--json", str(bundle())]) == 0
    assert json.loads(capsys.readouterr().out) == said
    assert run(["report", "--junit", str(bundle())]) == 0
    assert capsys.readouterr().out.startswith("<?xml")
    assert run(["report", str(bundle())]) == 0
    assert capsys.readouterr().out == (bundle() / "report.html").resolve().as_uri() + "\n"


def test_a_scenario_that_notices_nothing_is_shown_in_full_and_fails_the_run(mesh, capsys):
    Path("half.yaml").write_text(
        HALF.split("expect")[0] + "expect: {any: [{status: 200}, {split: {weights: {v1: 1, v2: 1}}}]}\n"
    )
    assert run(["verify", "-i", "lab.yaml", "--mutants", "half.yaml"]) == 1
    said = capsys.readouterr()
    assert "half: noticed 0 of 1 (0%)" in said.out
    assert "  not noticed: VirtualService reviews: http[0]: weights shifted by 10: PASS: " in said.out
    assert "1 of 1: half: 1 of 1: VirtualService reviews: http[0]: weights shifted by 10" in said.err
    page = (bundle() / "report.html").read_text()
    assert "<polyline" in page or "<rect" in page
    cases = parse_xml(bundle() / "junit.xml").getroot()
    assert cases.attrib["failures"] == "1"


def test_scores_are_written_while_a_mutation_run_goes_on(mesh, monkeypatch):
    """It takes half an hour on emulated machines: what ends it leaves the scores so far."""
    mesh.resources = weights(70, 30)
    for name in ("half.yaml", "again.yaml"):
        Path(name).write_text(Path(name).read_text().replace("v1: 50, v2: 50", "v1: 70, v2: 30"))
    with pytest.raises(KeyboardInterrupt):
        workflow.mutation_scores(
            lab(), ["half.yaml", "again.yaml"], progress=stop_at("2 of 2: again: 2 of 2"), evidence=Path("evidence")
        )
    whole, begun = json.loads((bundle() / "result.json").read_text())
    assert (whole["scenario"], whole["percent"]) == ("half", 100.0)
    assert (begun["scenario"], len(begun["mutants"])) == ("again", 1)
    assert bundle().with_name(bundle().name + ".tar.zst").is_file()
    assert mesh.resources == weights(70, 30)


def stop_at(text):
    def progress(what):
        if what.startswith(text):
            raise KeyboardInterrupt

    return progress


def test_a_machines_trouble_costs_one_scenario_its_score_and_a_lab_left_behind_ends_the_run(mesh, monkeypatch):
    applied = mesh.applied
    troubled = iter([LabError("one", "read its resources", "no answer")])

    def once():
        for error in troubled:
            raise error
        return applied()

    monkeypatch.setattr(mesh, "applied", once)
    scores = workflow.mutation_scores(lab(), ["half.yaml", "again.yaml"])
    assert [s.percent for s in scores] == [None, 100.0]
    assert "no answer" in scores[0].unsound
    monkeypatch.setattr("testbed.scenarios.mutants.put_back", lambda *_: False)
    with pytest.raises(LabError, match="half: put the lab back as it was"):
        workflow.mutation_scores(lab(), ["half.yaml", "again.yaml"], evidence=Path("evidence"))
    [score] = json.loads((bundle() / "result.json").read_text())
    assert score["no_score"] == "the lab could not be put back as it was"


@pytest.mark.parametrize("options", [[], ["--mutants"]])
def test_a_wrong_name_in_a_later_file_is_told_before_anything_is_run(mesh, capsys, options):
    Path("again.yaml").write_text(HALF.replace("half", "again", 1).replace("service: reviews,", "service: review,"))
    assert run(["verify", "-i", "lab.yaml", *options, "half.yaml", "again.yaml"]) == 2
    said = capsys.readouterr()
    assert "again.yaml:4:22: when.service: the lab has no service 'review'" in said.err
    assert "half" not in said.out
    assert not Path("evidence").exists()
