"""What an hour of random faults costs in all: twice as long a run takes twice the work to judge and to report, not four
times.  Work is counted in instructions of Python's, which do not depend on the machine."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import pytest
from fault_lab import TOPOLOGY, fault

from testbed.model.scenario import read_scenario
from testbed.model.verdict import failed
from testbed.report import ScenarioRecord, StepRecord, html_page
from testbed.report.page import SHOWN
from testbed.report.plain import record_json
from testbed.report.record import FaultSpan, Mark
from testbed.scenarios.causes import Manner, Scene, losses
from testbed.scenarios.evidence import AccessLogEntry
from testbed.scenarios.processors import Processors, Stretch
from testbed.scenarios.ways import Ways
from testbed.traffic import Request, Sample, TrafficSpec

EVERY = 10.0
"""Seconds from one fault to the next."""
REVIEWS = tuple(w for w in TOPOLOGY.workloads if w.service == "reviews")
CLIENT = TOPOLOGY.workload("client-v1")
SPEC = TrafficSpec("run", "240.240.0.1", 9080, "reviews", (Request(),), 1)
FLAGS = {
    Manner.REFUSED: "UF",
    Manner.CUT: "UC",
    Manner.HUNG: "DC",
    Manner.NONE_LEFT: "UH",
    Manner.ANSWERED: "-",
}
SCENARIO = read_scenario(
    "name: long\ndescription: d\npromise: p\nwhen: {from: client, service: reviews}\nexpect: {status: 200}\n",
    "long.yaml",
)


def work(what) -> int:
    """How many instructions it takes."""
    count, before = 0, sys.gettrace()

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        what()
    finally:
        sys.settrace(before)
    return count


def run_of(faults: int, manner: Manner) -> tuple[list[Sample], Scene]:
    """So many faults one after another, a loss and an ejection to each: half of them are of what was broken."""
    kinds = ("freeze", "power-off", "sidecar-kill", "restart", "service-kill")
    spans, lost, entries, marks = [], [], [], []
    for n in range(faults):
        at, callee = n * EVERY, REVIEWS[n % 2]
        broken = fault(kinds[n % len(kinds)], callee.name, at=f"{at}s")
        spans.append(FaultSpan(broken.title, (callee.node,), at, at + 0.1, at + 3, at + 4, True, "it did", broken))
        error = "no answer within 5 s" if manner is Manner.HUNG else ""
        lost.append(Sample(n, 0, 0 if error else 503, at + 1, 0.5, 1, {}, error, ""))
        called = REVIEWS[n // 2 % 2]
        entries.append(
            AccessLogEntry(
                {
                    "x_request_id": SPEC.request_id(n),
                    "response_flags": FLAGS[manner],
                    "upstream_host": f"{called.address}:9080" if manner is not Manner.NONE_LEFT else "",
                    "upstream_cluster": "outbound|9080||reviews.default.svc.cluster.local",
                    "response_code_details": "via_upstream" if manner is Manner.ANSWERED else "",
                }
            )
        )
        marks += [Mark(at + 0.5, f"{w.name} ejected", w.name) for w in REVIEWS]
    stretches = tuple(Stretch(t / 2, t / 2 + 0.5, {"one": 0.1}) for t in range(int(faults * EVERY * 2)))
    ways = Ways(TOPOLOGY, (CLIENT,), REVIEWS, SPEC, {CLIENT.name: entries})
    return lost, Scene(spans, marks, ways, pool=4, resolution=0.1, processors=Processors(stretches))


@pytest.mark.parametrize("manner", FLAGS)
def test_twice_the_losses_among_twice_the_faults_take_twice_the_work(manner):
    def explained(faults: int) -> int:
        lost, scene = run_of(faults, manner)
        return work(lambda: losses(lost, scene))

    assert explained(200) < 2.4 * explained(100)


def test_a_page_lists_some_hundreds_of_losses_those_without_a_cause_first_and_the_result_all():
    def reported(faults: int) -> tuple[ScenarioRecord, int]:
        lost, scene = run_of(faults, Manner.REFUSED)
        found = losses(lost, scene)
        step = StepRecord("", failed("f"), SPEC, CLIENT.name, tuple(lost), faults=tuple(scene.spans), losses=found)
        record = ScenarioRecord(SCENARIO, failed("f"), datetime(2026, 1, 1, tzinfo=UTC), 1.0, (step,))
        return record, work(lambda: (html_page([record], TOPOLOGY), record_json(record)))

    (_, once), (record, twice) = reported(1000), reported(2000)
    assert twice < 2.4 * once
    [step], plain, page = record.steps, record_json(record)["steps"][0], html_page([record], TOPOLOGY)
    bare = [x for x in step.losses if not x.cause]
    assert len(plain["losses"]) == len(step.losses) == 2000 > len(bare) > SHOWN
    assert page.count(" s</td><td>503</td>") == page.count("<td>503</td><td>unexplained</td>") == SHOWN
    assert f"<td>unexplained</td><td class='n'>{len(bare)}</td>" in page
    assert f"{2000 - SHOWN} more are in result.json" in page
