"""Logs of proxies are read for what they have: of machines that lost their power, of others' time, or that are late."""

import json
import subprocess
import time
from types import SimpleNamespace

from played import CLIENT, many

from testbed.guests import Completed
from testbed.scenarios import evidence as module
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
        def run(self, argv, *, stdin=b"", limit=60, check=True):
            done = subprocess.run(argv, input=stdin, capture_output=True, timeout=limit, check=check)
            return Completed(done.returncode, done.stdout, done.stderr)

    layout = SimpleNamespace(access_log=lambda workload: str(log))
    lab = SimpleNamespace(
        guest=SimpleNamespace(layout=layout), backend=SimpleNamespace(connection=lambda name: Connection())
    )
    evidence = Evidence(lab, TrafficSpec("run", "10.0.0.9", 80, "reviews", (Request(),), 9), None)
    entries, clusters = evidence.trail(SimpleNamespace(name="reviews-v2"), {"run-1", "run-3"}, at_least=2)
    assert [e["x_request_id"] for e in entries] == ["run-1", "run-3"]
    assert clusters == ["outbound|9080||ratings.x"]


SPEC = TrafficSpec("run7", "10.0.0.9", 80, "reviews", (Request(),), 2)


def line(when, details):
    return f'{{"start_time":"{when}","response_code_details":"{details}"}}\n'.encode()


def evidence_of(answers):
    """The proxy's clock stands in 2030, and the traffic began ten seconds ago."""

    def run(argv, *, check):
        assert argv[:2] == ["sh", "-c"]
        return SimpleNamespace(stdout=answers.pop(0) if len(answers) > 1 else answers[0])

    lab = SimpleNamespace(
        guest=SimpleNamespace(layout=SimpleNamespace(access_log=lambda w: f"/log/{w.name}")),
        backend=SimpleNamespace(connection=lambda _: SimpleNamespace(run=run)),
    )
    return Evidence(lab, SPEC, CLIENT, samples=many(2), opened=time.monotonic() - 10)


CLOCK = b"1893456010.000000000\n"  # 2030-01-01T00:00:10Z
OLD = line("2029-12-31T23:59:50.000Z", "filter_chain_not_found")
NEW = line("2030-01-01T00:00:05.123Z", "filter_chain_not_found")


def test_connections_are_those_since_the_traffic_began_by_the_proxys_own_clock():
    found = evidence_of([CLOCK + OLD + NEW + NEW + b'{"start_time":"cut o'])
    assert len(found.connections([CLIENT], "filter_chain_not_found", 2)) == 2
    assert OLD in found.attachments["access/client-v1.log"]


def test_a_log_that_is_behind_is_waited_for_and_no_longer_than_it_may_be(monkeypatch):
    found = evidence_of([CLOCK + OLD, CLOCK + OLD + NEW, CLOCK + OLD + NEW + NEW])
    assert len(found.connections([CLIENT], "filter_chain_not_found", 2)) == 2
    monkeypatch.setattr(module, "LOG_LIMIT", 0.2)
    assert len(evidence_of([CLOCK + OLD + NEW]).connections([CLIENT], "filter_chain_not_found", 2)) == 1
