"""Machine or mesh: whether a FAIL is the mesh's, by how the machines and programs were meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from testbed.errors import LabError
from testbed.model.scenario import Step
from testbed.model.topology import MeshWorkload, ProxyKind
from testbed.model.verdict import Outcome, Verdict, inconclusive
from testbed.report.record import MachineRecord
from testbed.scenarios.building import walk
from testbed.scenarios.judge import BROKEN, REFUSED
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.overtime import SLOWER
from testbed.scenarios.programs import ask
from testbed.scenarios.vitals import crowded, lossy

TIMED = {"timeout", "latency", "overflow", "readmitted", "isolation"}
TIMED |= {"timeToEject", "timeToReadmit", "rescheduled", "timeToFailover", "timeToRecover"}
"""Expectations on how long something takes: a machine with too much to do breaks them, whatever the mesh does."""
PATIENT = TIMED | {"status", "attempts", "overflow", "ejected", "telemetry"}
"""These, and those that a lost packet can break: a proxy that gives a request up answers 504 or sends it again."""


def blamed(
    verdict: Verdict,
    step: Step,
    lab: LabUnderTest,
    watched: Sequence[MeshWorkload],
    machines: Sequence[MachineRecord],
) -> Verdict:
    """A FAIL blames the mesh only while every machine answers, and every program beside a sidecar; and for what a
    machine in trouble can break, only if none was."""
    first = [names[0] for names in lab.by_node(lab.topology.workloads).values()]
    try:
        with ThreadPoolExecutor(len(first)) as pool:
            list(pool.map(lambda name: lab.backend.connection(name).run(["true"], limit=20), first))
        for workload in watched or _programs(step, lab):
            ask(lab, workload.name, "/count")
    except LabError as e:
        return inconclusive(f"the lab, not the mesh: {e}\n{verdict.reason.splitlines()[0]}", verdict.numbers)
    failing = list(_failing(verdict)) or [(name, verdict) for name, _ in walk(step.expect)]
    excuses = [excuse(name, part, step, machines if lab.machines else ()) for name, part in failing]
    if all(excuses):
        return inconclusive(
            f"the lab, not the mesh: {excuses[0]}\n{verdict.reason.splitlines()[0]}", verdict.numbers
        )
    return verdict


def excuse(name: str, verdict: Verdict, step: Step, machines: Sequence[MachineRecord]) -> str:
    """What the machines did that explains this FAIL; empty when it is the mesh's.

    A packet that was lost spoils one request, or, where they share a connection, as many as are under way.
    """
    refused = verdict.numbers.get(REFUSED)
    if refused is not None and step.when.faults:
        return f"{refused:.0f} connections were refused while machines were broken"
    timed = name in TIMED or (name == "goodput" and SLOWER in verdict.numbers)
    if (timed or refused is not None) and (why := crowded(machines)):
        return why
    # packets to what is broken are sent again, whatever the machines do
    if step.when.faults or (refused is None and name not in PATIENT):
        return ""
    broken = verdict.numbers.get(BROKEN) if refused is None else None
    if broken is None:
        return lossy(machines)
    spoils = 1 if step.when.protocol == "http1" else step.when.concurrency
    lost = sum(m.lost for m in machines)
    if lost * spoils < broken:
        return ""
    return f"{broken:.0f} requests broke what was expected, and the machines lost {lost} TCP segments"


def _programs(step: Step, lab: LabUnderTest) -> list[MeshWorkload]:
    """All of the lab's, where nothing says which are called; none where some were broken on purpose."""
    every = (w for w in lab.topology.workloads if w.service and w.ports and w.kind is not ProxyKind.GATEWAY)
    return [] if step.when.faults else list(every)


def _failing(verdict: Verdict) -> Iterator[tuple[str, Verdict]]:
    """The expectations that failed, of a verdict that was put together."""
    for name, part in verdict.parts:
        if part.outcome is Outcome.FAIL:
            yield from _failing(part) if part.parts else [(name, part)]
