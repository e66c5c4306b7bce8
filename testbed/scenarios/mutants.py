"""Negative controls: the scenario as it stands, on resources that break its promise.  Each must FAIL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from typing import Any

from testbed.documents import parse
from testbed.errors import BadInput, TestbedError
from testbed.model.scenario import Scenario
from testbed.model.verdict import inconclusive, not_applicable
from testbed.report.record import ScenarioRecord
from testbed.report.score import MutantResult, MutationScore
from testbed.resources import Key, Resource, ResourceSet, load
from testbed.scenarios.building import walk
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.loading import ScenarioFile, given_resources
from testbed.scenarios.mutations import Manifest, broken
from testbed.scenarios.resting import broken_claims
from testbed.scenarios.running import put_back, run_scenario, why_not_applicable
from testbed.statistics import DEFAULT_TOLERANCE


@dataclass(frozen=True)
class Mutant:
    """One lie: a resource, as it is in the scenario or the lab, and what stands in its place."""

    name: str
    key: Key
    original: str
    """The digest of the resource that it replaces: steps with another version of it are left alone."""
    replacement: Resource[Any] | None

    def change(self, resources: ResourceSet) -> ResourceSet:
        """The resources with the lie in them; the same ones where the original isn't among them."""
        found = resources.get(self.key)
        if found is None or found.digest != self.original:
            return resources
        if self.replacement is None:
            return resources.without([self.key])
        return resources.merged(ResourceSet([self.replacement]))


def mutants_of(file: ScenarioFile, base: ResourceSet) -> Iterator[Mutant]:
    """Every way to break the resources that the scenario gives, and those of the lab that its claims rest on.

    A change that makes the resources invalid is no mutant: the mesh would never get it.  Where machines are broken
    the control is the same fault without the resource that protects from it: each is taken away as a whole.
    """
    if file.scenario.breaks_machines:
        for step, resource in _given(file):
            name = f"{resource.kind} {resource.name}: removed" + (f" [{step}]" if step else "")
            yield Mutant(name, resource.key, resource.digest, None)
        return
    points = _tolerance(file.scenario)
    given = ((step, r, broken(r.to_plain(), points)) for step, r in _given(file))
    own = {resource.key for _, resource in _given(file)}
    relied_on = (("", r, broken_claims(r, file.scenario, points)) for r in base if r.key not in own)
    seen: set[tuple[str, str]] = set()
    for step, resource, ways in (*given, *relied_on):
        for what, manifest in ways:
            mutated = _read(manifest)
            if manifest is not None and mutated is None:
                continue
            name = f"{resource.kind} {resource.name}: {what}" + (f" [{step}]" if step else "")
            # it stands in place of the resource in every step that has it
            if (what, resource.digest) not in seen:
                seen.add((what, resource.digest))
                yield Mutant(name, resource.key, resource.digest, mutated)


def run_mutants(
    file: ScenarioFile,
    lab: LabUnderTest,
    *,
    progress: Callable[[str], None] = lambda _: None,
    keep: Callable[[ScenarioRecord], ScenarioRecord] = lambda record: record,
    each: Callable[[MutationScore], None] = lambda _: None,
) -> MutationScore:
    """Run the scenario as it stands, then under each of its mutants; then the lab is put back.

    Only one that passes with nothing broken has a score: one that fails anyway would notice everything.  ``keep``
    is given every run's record as it ends, ``each`` the score so far after every mutant.  Of a scenario that is not
    applicable in this lab there are none.  Never raises for what the lab or the mesh does.
    """
    scenario = file.scenario
    if reason := why_not_applicable(scenario, lab):
        record = ScenarioRecord(scenario, not_applicable(reason), datetime.now(UTC), 0.0)
        return MutationScore(scenario, baseline=record, unsound=f"NOT_APPLICABLE: {reason}")
    try:
        before = lab.backend.applied()
    except TestbedError as e:
        return MutationScore(scenario, unsound=f"the lab, not the mesh: {e}")
    mutants = [(m, _excuse(m, scenario)) for m in mutants_of(file, before)]
    baseline = None
    results: list[MutantResult] = []
    try:
        if not all(excuse for _, excuse in mutants):
            number = sum(not excuse for _, excuse in mutants)
            progress(f"{scenario.name}: nothing broken, {number} mutants to come")
            baseline = keep(run_scenario(file, lab, before=before))
        if baseline is None or baseline.verdict.passed:
            for number, (mutant, excuse) in enumerate(mutants, 1):
                if not excuse:
                    progress(f"{scenario.name}: {number} of {len(mutants)}: {mutant.name}")
                left_out = MutantResult(mutant.name, excused=excuse)
                results.append(left_out if excuse else _run(mutant, file, lab, before, keep))
                each(MutationScore(scenario, tuple(results), baseline))
                # a program that still misbehaves would be what the next ones are noticed by
                if (last := results[-1].record) is not None and not last.clean:
                    break
    finally:
        records = [baseline, *(r.record for r in results)]
        clean = put_back(before, lab) and all(r.clean for r in records if r is not None)
    unsound = ""
    if baseline is not None and not baseline.verdict.passed:
        unsound = f"{baseline.outcome} with nothing broken: {baseline.verdict.reason}"
    if not clean:
        unsound = "the lab could not be put back as it was"
    return MutationScore(scenario, tuple(results), baseline, unsound, left_behind=not clean)


def _run(
    mutant: Mutant,
    file: ScenarioFile,
    lab: LabUnderTest,
    before: ResourceSet,
    keep: Callable[[ScenarioRecord], ScenarioRecord],
) -> MutantResult:
    try:
        record = run_scenario(file, lab, change=mutant.change, mutant=mutant.name, before=before)
    except BadInput as e:  # each resource is valid, and together they are not
        return MutantResult(mutant.name, refused=str(e))
    except TestbedError as e:
        trouble = inconclusive(f"the lab, not the mesh: {e}")
        record = ScenarioRecord(file.scenario, trouble, datetime.now(UTC), 0.0, mutant=mutant.name)
    refused = next((s.verdict.reason for s in record.steps if s.refused), "")
    return MutantResult(mutant.name, keep(record), refused=refused)


def _excuse(mutant: Mutant, scenario: Scenario) -> str:
    return next((e.reason for e in scenario.equivalent if fnmatch(mutant.name, e.mutant)), "")


def _tolerance(scenario: Scenario) -> float:
    found = [
        value.tolerance
        for step in scenario.each_step()
        for name, value in walk(step.expect)
        if name == "split" and value.tolerance
    ]
    return max(found, default=100 * DEFAULT_TOLERANCE)


def _given(file: ScenarioFile) -> Iterator[tuple[str, Resource[Any]]]:
    """What the scenario gives, with the step that does; "" for all of it."""
    for name, given in (("", file.scenario.given), *((s.name, s.given) for s in file.scenario.steps)):
        yield from ((name, resource) for resource in given_resources(given, file.path))


def _read(manifest: Manifest | None) -> Resource[Any] | None:
    if manifest is None:
        return None
    try:
        return next(iter(load(parse(json.dumps(manifest), "mutant"))))
    except (BadInput, StopIteration):
        return None
