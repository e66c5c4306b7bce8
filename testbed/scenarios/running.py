"""Run a scenario: apply, wait until in force, sample until decided, put everything back, say what came out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from testbed.backends.contract import Applied
from testbed.errors import LabError, MeshError, MeshLate, TestbedError
from testbed.log import get
from testbed.model.scenario import Given, Scenario, Step
from testbed.model.topology import MeshWorkload, ProxyKind
from testbed.model.verdict import Outcome, Verdict, all_of, failed, inconclusive, not_applicable
from testbed.report.record import MachineRecord, ScenarioRecord, StepRecord
from testbed.resources import ResourceSet, dump
from testbed.scenarios import sharing
from testbed.scenarios.agreement import counts_disagree, repeated, repeating
from testbed.scenarios.ambient import why_not
from testbed.scenarios.blame import blamed
from testbed.scenarios.building import build, headers_wanted, services_named, walk
from testbed.scenarios.evidence import Control, Evidence, PastTraffic
from testbed.scenarios.faulting import sample_under_faults, unable
from testbed.scenarios.following import Follower
from testbed.scenarios.judge import Judge, Terms
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.loading import ScenarioFile, given_resources, removed_keys
from testbed.scenarios.naming import check_names
from testbed.scenarios.overtime import unsound_before
from testbed.scenarios.programs import ArrivalLog, settings
from testbed.scenarios.requests import Sender, sender, traffic_spec
from testbed.scenarios.vitals import Vitals, between, crowded, look
from testbed.traffic import TrafficSpec, TrafficSummary, send

MAX_DISCARDED_RUNS = 3

Progress = Callable[[str], None]


@dataclass
class _Run:
    """What the steps of one run share."""

    scenario: Scenario
    lab: LabUnderTest
    arrivals: ArrivalLog
    homes: dict[str, Mapping[str, str]] = field(default_factory=dict)
    follower: Follower = field(default_factory=Follower)
    past: list[PastTraffic] = field(default_factory=list)
    controls: set[Control] = field(default_factory=set)
    left: list[str] = field(default_factory=list)
    """Workloads whose programs still misbehave as they were told."""
    in_force: tuple[ResourceSet, Applied] | None = None
    """What the last step found to be still in force when its sample had been taken."""


def run_scenario(
    file: ScenarioFile,
    lab: LabUnderTest,
    *,
    change: Callable[[ResourceSet], ResourceSet] | None = None,
    mutant: str = "",
    before: ResourceSet | None = None,
    progress: Progress = lambda _: None,
    follower: Follower | None = None,
) -> ScenarioRecord:
    """Run every step, whatever comes out, and leave the lab as it was.

    ``change`` is laid over each step's resources: it makes mutants.  With it only the steps that it changes are
    run, up to the first that fails.  ``before`` is what the lab had, where the caller puts that back (see
    :func:`put_back`) after several runs.  Never raises for what the lab or the mesh does: machine trouble ends as
    INCONCLUSIVE, a configuration that the mesh refuses as FAIL.  Bad input raises.
    """
    started, began = datetime.now(UTC), time.monotonic()
    scenario = file.scenario
    reason = why_not_applicable(scenario, lab)
    if reason:
        return ScenarioRecord(scenario, not_applicable(reason), started, time.monotonic() - began, mutant=mutant)
    check_names(file, topology=lab.topology)
    steps: list[StepRecord] = []
    run = _Run(scenario, lab, ArrivalLog(lab), follower=follower or Follower())
    clean = True
    try:
        found = lab.backend.applied() if before is None else before
        try:
            for number, step in enumerate(scenario.each_step(), 1):
                given = _wanted(found, (scenario.given, step.given), file.path)
                wanted = change(given) if change else given
                name = step.name or (f"step {number}" if scenario.steps else "")
                if change and wanted == given and not _looked_back_at(name, scenario):
                    continue
                progress(f"{scenario.name} {name}".rstrip())
                steps.append(_run_step(step, name, run, wanted, mutant=bool(mutant)))
                if change and steps[-1].verdict.outcome is Outcome.FAIL:
                    break
        finally:
            clean = (before is not None or put_back(found, lab)) and not run.left
        verdict = all_of((s.name or scenario.name, s.verdict) for s in steps)
    except LabError as e:
        verdict = inconclusive(f"the lab, not the mesh: {e}")
    if not clean:
        why = "the lab could not be put back as it was" + (f": {', '.join(run.left)}" if run.left else "")
        verdict = all_of([("scenario", verdict), ("restore", inconclusive(why))])
    return ScenarioRecord(scenario, verdict, started, time.monotonic() - began, tuple(steps), mutant, clean)


def _looked_back_at(name: str, scenario: Scenario) -> bool:
    leaves = [leaf for step in scenario.steps for leaf in walk(step.expect)]
    return any(kind == "sticky" and value.since == name for kind, value in leaves)


def check_all(files: Iterable[ScenarioFile], lab: LabUnderTest) -> None:
    """Raises BadInput for every name that the lab lacks in those that it can be asked, before any is run."""
    check_names(*(f for f in files if not why_not_applicable(f.scenario, lab)), topology=lab.topology)


def why_not_applicable(scenario: Scenario, lab: LabUnderTest) -> str:
    """Why the question does not arise in this lab; empty when it does."""
    for name in scenario.needs:
        if not lab.of_name(name):
            return f"the lab has no {name}"
    for feature in scenario.features:
        if reason := lab.backend.not_applicable(feature):
            return reason
    return next((reason for step in scenario.each_step() if (reason := unable(step, lab.breaker))), "")


def _wanted(before: ResourceSet, givens: tuple[Given, ...], path: Path) -> ResourceSet:
    wanted = before
    for given in givens:
        wanted = wanted.without(removed_keys(given, wanted, path))
        wanted = wanted.merged(given_resources(given, path))
    return wanted


def put_back(before: ResourceSet, lab: LabUnderTest) -> bool:
    """Put the resources back and look whether they are; never raises."""
    try:
        # an apply that finds nothing to change has looked at every node; one that changed something is looked after
        return not lab.backend.apply(before).changed or lab.backend.diff(before).is_empty
    except TestbedError as e:
        get("scenarios").error("restore failed", error=str(e))
        return False


def _run_step(step: Step, name: str, run: _Run, wanted: ResourceSet, *, mutant: bool = False) -> StepRecord:
    began = time.monotonic()
    lab, scenario = run.lab, run.scenario
    if reason := why_not(step, wanted, lab):
        return StepRecord(name, not_applicable(reason), resources=dump(wanted))
    try:
        known, run.in_force = run.in_force, None
        applied = known[1] if known is not None and known[0] == wanted else _apply(wanted, lab)
    except MeshError as e:
        why = f"the mesh refused or never took up the resources: {e}"
        return StepRecord(name, failed(why), resources=dump(wanted), refused=True)
    applied_after = time.monotonic()
    watched = _watched(step, scenario, lab)
    discarded = 0
    revisions: Mapping[str, str] = applied.revisions
    with settings(lab, {**scenario.given.settings, **step.given.settings}, run.left):
        for _ in range(MAX_DISCARDED_RUNS):
            judge = build(step.expect, _terms(step, scenario), lab.topology)
            count = _count(step, judge)
            spec = traffic_spec(step.when, lab, secrets.token_hex(4), count, headers_wanted(step.expect))
            who = sender(step.when, lab)
            evidence = Evidence(
                lab,
                spec,
                who.caller,
                earlier_homes=run.homes,
                earlier=tuple(run.past),
                controls=run.controls,
            )
            # with faults the sampling itself looks that every proxy comes back to its revision
            faulty = bool(step.when.faults)
            concerned = _concerned(watched, who, lab)
            _, before = _at_once(partial(run.arrivals.mark, watched), partial(look, lab, concerned))
            revisions = {} if faulty else (revisions or _revisions(lab))
            sampling = time.monotonic()
            summary = _sample(step, spec, who, evidence, judge, run.follower)
            sampled_after = time.monotonic()
            after, now = _at_once(
                partial(_look_again, lab, concerned, evidence), partial(_revisions, lab, faulty=faulty)
            )
            broken = {node for fault in evidence.faults for node in fault.nodes}
            machines = tuple(
                m for m in between(before, after) if m.node not in broken
            )  # they say nothing of before
            if now == revisions:
                run.in_force = None if faulty else (wanted, applied)
                break
            revisions = {}
            discarded += len(evidence.samples)
        else:
            text = "a proxy's revision changed during every sample"
            return StepRecord(name, inconclusive(text), discarded=discarded, resources=dump(wanted))
        ids = {spec.request_id(s.seq) for s in evidence.samples}
        news = run.arrivals.settled_news if _counts_arrivals(step) else run.arrivals.news
        evidence.arrivals = [a for a in news(watched, spec.run) if a.request in ids]
        verdict = judge.conclude(evidence)
    run.homes[name] = evidence.homes
    run.past.append(evidence.as_past())
    verdict = _standing(verdict, step, evidence, watched, machines)
    if verdict.passed and not _counts_arrivals(step) and (told := repeated(evidence, repeating(wanted))):
        verdict = inconclusive(told, verdict.numbers)
    if not (mutant and verdict.outcome is Outcome.FAIL):  # that one was noticed: nobody asks why
        evidence.gather(concerned, everything=not verdict.passed)
    return StepRecord(
        name=name,
        verdict=verdict,
        spec=spec,
        caller=who.caller.name if who.caller else "outside",
        samples=tuple(evidence.samples),
        summary=summary,
        arrivals=tuple(evidence.arrivals),
        discarded=discarded,
        revision=applied.revision,
        paths=judge.paths(),
        apply_seconds=applied_after - began,
        sample_seconds=sampled_after - sampling,
        revisions=revisions,
        machines=machines,
        attachments=dict(evidence.attachments),
        faults=tuple(evidence.faults),
        marks=tuple(evidence.marks),
        clocks=evidence.clocks,
        losses=evidence.losses,
        spoiled=tuple(evidence.spoiled),
        put_off=tuple(evidence.put_off),
        trouble=tuple(evidence.trouble),
        resources=dump(wanted),
    )


def _standing(
    verdict: Verdict,
    step: Step,
    evidence: Evidence,
    watched: Sequence[MeshWorkload],
    machines: Sequence[MachineRecord],
) -> Verdict:
    """What is left of a judge's verdict once it is known how well the lab was."""
    if "invariants" not in dict(walk(step.expect)) and (wrong := [*evidence.spoiled, *evidence.trouble]):
        verdict = inconclusive(f"the lab, not the mesh: {wrong[0]}", verdict.numbers)
    if disagreement := counts_disagree(evidence, {w.name for w in watched}):
        verdict = inconclusive(f"the lab, not the mesh: {disagreement}", verdict.numbers)
    if verdict.outcome is Outcome.FAIL and evidence.faults:
        began = min(f.began for f in evidence.faults)
        if why := unsound_before(evidence.samples, began):
            verdict = inconclusive(
                f"the lab, not the mesh: {why}\n{verdict.reason.splitlines()[0]}", verdict.numbers
            )
    if verdict.outcome is Outcome.FAIL:
        verdict = blamed(verdict, step, evidence.lab, watched, machines)
    return verdict


def _apply(wanted: ResourceSet, lab: LabUnderTest) -> Applied:
    """Put it in force.  MeshError when that is the mesh's fault; LabError when a machine was too busy."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(look, lab, lab.topology.workloads)
        try:
            return lab.backend.apply(wanted)
        except MeshLate as e:
            if lab.machines and (why := crowded(between(asked.result(), look(lab, lab.topology.workloads)))):
                raise LabError(e.subject, e.action, f"{e.cause}; {why}", "testbed status") from e
            raise


def _terms(step: Step, scenario: Scenario) -> Terms:
    errors = sharing.of_step(step, scenario)
    return Terms(step.when, errors.alpha, errors.beta)


def _count(step: Step, judge: Judge) -> int:
    """How many requests at most: as said, as many as fit into the time, or what the judge needs."""
    if step.when.duration is not None and step.when.rate is not None:
        return max(1, int(step.when.duration * step.when.rate))
    return step.when.requests or judge.cap


def _watched(step: Step, scenario: Scenario, lab: LabUnderTest) -> list[MeshWorkload]:
    """The workloads whose programs' logs count: of every service that the step or the scenario names."""
    if step.when.faults:  # a program that was broken has forgotten what arrived
        return []
    names = [step.when.service, *scenario.needs, *services_named(step.expect)]
    found = {w.name: w for name in names if name for w in lab.of_name(name)}
    return [w for w in found.values() if w.service and w.kind is not ProxyKind.GATEWAY]


def _look_again(lab: LabUnderTest, concerned: Sequence[MeshWorkload], evidence: Evidence) -> dict[str, Vitals]:
    """The counters after the sample.  Under faults it is kept when a machine can't be asked any more."""
    try:
        return look(lab, concerned)
    except LabError as e:
        if not evidence.faults:
            raise
        evidence.trouble.append(str(e))
        return {}


def _sample(
    step: Step, spec: TrafficSpec, who: Sender, evidence: Evidence, judge: Judge, follower: Follower
) -> TrafficSummary:
    if step.when.faults and evidence.lab.breaker is not None:
        return sample_under_faults(step, spec, who, evidence, judge, evidence.lab.breaker, follower)
    wanted = "encrypted" in dict(walk(step.expect)) and who.caller is not None
    with ExitStack() as stack:
        file = None
        if wanted and who.caller is not None and evidence.lab.capture is not None:
            file = stack.enter_context(evidence.lab.capture(evidence.lab.node_of(who.caller.name)))
        with send(spec, who.at, who.argv) as run:
            for sample in run:
                evidence.samples.append(sample)
                judge.take(sample)
                if judge.settled:
                    break
            evidence.began = run.began
        stack.pop_all().close()  # the capture is whole only now
        if file is not None:
            evidence.capture = file.read_bytes()
            file.unlink()
            evidence.attachments["capture.pcap"] = evidence.capture
    return run.summary


def _revisions(lab: LabUnderTest, *, faulty: bool = False) -> Mapping[str, str]:
    """Workload -> its proxy's revision, "" for one that is not in force; nothing where faults see to that."""
    return {} if faulty else {s.workload: s.revision_wanted if s.in_force else "" for s in lab.backend.states()}


One = TypeVar("One")
Other = TypeVar("Other")


def _at_once(one: Callable[[], One], other: Callable[[], Other]) -> tuple[One, Other]:
    """Two questions to the nodes: each waits for them most of the time."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(one), pool.submit(other)
        return first.result(), second.result()


def _counts_arrivals(step: Step) -> bool:
    return "attempts" in dict(walk(step.expect))


def _concerned(watched: Sequence[MeshWorkload], who: Sender, lab: LabUnderTest) -> list[MeshWorkload]:
    """The workloads whose machines can make a sample slow: the caller, or the gateways, and whom it calls."""
    gateways = [w for w in lab.topology.workloads if w.kind is ProxyKind.GATEWAY]
    return list({w.name: w for w in (*([who.caller] if who.caller else gateways), *watched)}.values())
