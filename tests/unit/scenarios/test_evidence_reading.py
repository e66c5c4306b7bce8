"""Logs of machines that lost their power are read for what they have."""

import json
import subprocess
from types import SimpleNamespace

from testbed.guests import Completed
from testbed.scenarios.evidence import AccessLogEntry, Evidence
from testbed.traffic import Request, TrafficSpec

LINE = {"x_request_id": "run-1", "upstream_cluster": "outbound|9080||ratings.x", "response_flags": None}
WHOLE = json.dumps(LINE, separators=(",", ":")).encode()


def test_broken_lines_are_left_out_and_what_is_joined_to_them_is_read():
    other = WHOLE.replace(b"run-1", b"run-2")
    lines = [WHOLE, b"\0" * 4000 + other, WHOLE[:20], WHOLE[:20] + WHOLE, b"", b"[]", WHOLE[:-9] + b"}"]
    found = AccessLogEntry.read_all(lines)
    assert [e["x_request_id"] for e in found] == ["run-1", "run-2", "run-1"]
    assert found[0]["response_flags"] == ""


def test_zeros_in_a_log_hide_nothing_of_it(tmp_path):
    """``grep`` takes such a file for a binary one and shows no line of it unless told otherwise."""
    log = tmp_path / "access.log"
    log.write_bytes(b"\0\0\0\n" + WHOLE + b"\n" + WHOLE[:30] + WHOLE.replace(b"run-1", b"run-3") + b"\n")

    class Connection:
        def run(self, argv, *, stdin=b"", check=True):
            done = subprocess.run(argv, input=stdin, capture_output=True, check=check)
            return Completed(done.returncode, done.stdout, done.stderr)

    layout = SimpleNamespace(access_log=lambda workload: str(log))
    lab = SimpleNamespace(
        guest=SimpleNamespace(layout=layout), backend=SimpleNamespace(connection=lambda name: Connection())
    )
    evidence = Evidence(lab, TrafficSpec("run", "10.0.0.9", 80, "reviews", (Request(),), 9), None)
    entries, clusters = evidence.trail(SimpleNamespace(name="reviews-v2"), {"run-1", "run-3"}, at_least=2)
    assert [e["x_request_id"] for e in entries] == ["run-1", "run-3"]
    assert clusters == ["outbound|9080||ratings.x"]
