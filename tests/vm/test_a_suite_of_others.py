"""Other people's suites: the how-to's file is run by a pytest of its own, on the lab that is up."""

import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from commands import SHARED, cli
from documents import documents

BROKEN = """
def test_a_claim_that_is_wrong(lab):
    lab.check(name="wrong", when={"from": "client", "service": "reviews", "requests": 5}, expect={"status": 418})
"""


def test_the_how_tos_suite_passes_and_a_wrong_claim_fails_with_reason_and_bundle(bookinfo, tmp_path):
    [page] = [d for d in documents() if d.path.stem == "pytest"]
    for name, text in page.files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "test_wrong.py").write_text(BROKEN)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--testbed-inventory", SHARED]
    done = subprocess.run(
        [*argv, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
    )
    assert "4 passed, 1 failed" in done.stdout or "1 failed, 4 passed" in done.stdout, done.stdout
    failure = done.stdout[done.stdout.index("wrong: FAIL: ") :].splitlines()
    assert failure[1].startswith("  request 0: answered 404")
    bundle = tmp_path / failure[2].removeprefix("  evidence: ")
    assert (bundle / "report.html").is_file()
    assert len(list((tmp_path / "evidence").glob("*.tar.zst"))) == 5
    cli("plan", "--detailed-exitcode", "-i", SHARED)  # it was up before, so it is left up, and as it was
