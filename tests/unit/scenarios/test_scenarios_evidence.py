"""What evidence reads of a proxy's access log."""

import time
from types import SimpleNamespace

from played import CLIENT, many

from testbed.scenarios import evidence as module
from testbed.scenarios.evidence import Evidence
from testbed.traffic import Request, TrafficSpec

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
