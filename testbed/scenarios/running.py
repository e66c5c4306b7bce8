"""Run a scenario: apply, wait until in force, sample until decided, put everything back, say what came out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from testbed.errors import LabError, MeshError, TestbedError
from testbed.log import get
from testbed.model.scenario import Given, Scenario, Step
from testbed.model.verdict import Outcome, Verdict, all_of, failed, inconclusive, not_applicable
from testbed.report.record import ScenarioRecord, StepRecord
from testbed.resources import ResourceSet, dump
from testbed.scenarios.building import build, headers_wanted
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.judge import Terms
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.loading import ScenarioFile, given_resources, removed_keys
from testbed.scenarios.requests import Sender, sender, traffic_spec
from testbed.traffic import Sample, TrafficSpec, TrafficSummary, send

MAX_DISCARDED_RUNS = 3

Progress = Callable[[str], None]


def run_scenario(
    file: ScenarioFile,
    lab: LabUnderTest,
    *,
    change: Callable[[ResourceSet], ResourceSet] | None = None,
    mutant: str = "",
    progress: Progress = lambda _: None,
) -> ScenarioRecord:
    """Run every step, whatever comes out, and leave the lab as it was.

    ``change`` is laid over each step's resources: it makes mutants.  Never raises for what the lab or the mesh
    does: machine trouble ends as INCONCLUSIVE, a configuration that the mesh refuses as FAIL.  Bad input raises.
    """
    started, began = datetime.now(UTC), time.monotonic()
    scenario = file.scenario
    reason = _not_applicable(scenario, lab)
    if reason:
        return ScenarioRecord(scenario, not_applicable(reason), started, time.monotonic() - began, mutant=mutant)
    steps: list[StepRecord] = []
    shown = ""
    clean = True
    try:
        before = lab.backend.applied()
        try:
            for number, step in enumerate(scenario.each_step(), 1):
                wanted = _wanted(before, (scenario.given, step.given), file.path)
                wanted = change(wanted) if change else wanted
                shown = dump(wanted)
                name = step.name or (f"step {number}" if scenario.steps else "")
                progress(f"{scenario.name} {name}".rstrip())
                steps.append(_run_step(step, name, scenario, lab, wanted))
        finally:
            clean = _restore(before, lab)
        verdict = all_of((s.name or scenario.name, s.verdict) for s in steps)
    except LabError as e:
        verdict = inconclusive(f"the lab, not the mesh: {e}")
    if not clean:
        verdict = all_of(
            [("scenario", verdict), ("restore", inconclusive("the lab could not be put back as it was"))]
        )
    return ScenarioRecord(scenario, verdict, started, time.monotonic() - began, tuple(steps), shown, mutant, clean)


def _not_applicable(scenario: Scenario, lab: LabUnderTest) -> str:
    for name in scenario.needs:
        if not lab.of_name(name):
            return f"the lab has no {name}"
    for feature in scenario.features:
        if reason := lab.backend.not_applicable(feature):
            return reason
    return ""


def _wanted(before: ResourceSet, givens: tuple[Given, ...], path: Path) -> ResourceSet:
    wanted = before
    for given in givens:
        wanted = wanted.without(removed_keys(given, wanted, path))
        wanted = wanted.merged(given_resources(given, path))
    return wanted


def _restore(before: ResourceSet, lab: LabUnderTest) -> bool:
    """Put the resources back and look whether they are; never raises."""
    try:
        if not lab.backend.diff(before).is_empty:
            lab.backend.apply(before)
        return lab.backend.diff(before).is_empty
    except TestbedError as e:
        get("scenarios").error("restore failed", error=str(e))
        return False


def _run_step(step: Step, name: str, scenario: Scenario, lab: LabUnderTest, wanted: ResourceSet) -> StepRecord:
    began = time.monotonic()
    try:
        applied = lab.backend.apply(wanted)
    except MeshError as e:
        return StepRecord(name, failed(f"the mesh refused or never took up the resources: {e}"))
    applied_after = time.monotonic()
    run = secrets.token_hex(4)
    who = sender(step.when, lab)
    discarded = 0
    for _ in range(MAX_DISCARDED_RUNS):
        judge = build(step.expect, Terms(step.when, scenario.alpha, scenario.beta), lab.topology)
        spec = traffic_spec(step.when, lab, run, step.when.requests or judge.cap, headers_wanted(step.expect))
        evidence = Evidence(lab, spec, who.caller)
        revisions = _revisions(lab)
        summary = _sample(spec, who, evidence, judge.take, lambda j=judge: j.settled)  # type: ignore[misc]
        if _revisions(lab) == revisions:
            break
        discarded += len(evidence.samples)
        run = secrets.token_hex(4)
    else:
        return StepRecord(name, inconclusive("a proxy's revision changed during every sample"), discarded=discarded)
    sampled_after = time.monotonic()
    verdict = judge.conclude(evidence)
    if verdict.outcome is Outcome.FAIL:
        verdict = _blame(verdict, lab, evidence)
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
        sample_seconds=sampled_after - applied_after,
        attachments=dict(evidence.attachments),
    )


def _sample(
    spec: TrafficSpec,
    who: Sender,
    evidence: Evidence,
    take: Callable[[Sample], None],
    settled: Callable[[], bool],
) -> TrafficSummary:
    with send(spec, who.at, who.argv) as run:
        for sample in run:
            evidence.samples.append(sample)
            take(sample)
            if settled():
                break
    return replace(run.summary, sent=max(run.summary.sent, len(evidence.samples)))


def _revisions(lab: LabUnderTest) -> dict[str, tuple[str, bool]]:
    return {s.workload: (s.revision_wanted, s.in_force) for s in lab.backend.states()}


def _blame(verdict: Verdict, lab: LabUnderTest, evidence: Evidence) -> Verdict:
    """A FAIL blames the mesh only while every machine is well."""
    try:
        for workload in lab.topology.workloads:
            lab.backend.connection(workload.name).run(["true"], limit=20)
    except LabError as e:
        return inconclusive(f"the lab, not the mesh: {e}\n{verdict.reason.splitlines()[0]}", verdict.numbers)
    return verdict
