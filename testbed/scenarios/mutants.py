"""Negative controls: the scenario as it stands, on resources that break its promise.  Each must FAIL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from testbed.documents import parse
from testbed.errors import BadInput, LabError
from testbed.model.scenario import Scenario
from testbed.model.verdict import Outcome, Verdict
from testbed.report.record import ScenarioRecord
from testbed.resources import Key, Resource, ResourceSet, load
from testbed.scenarios.building import services_named, walk
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.loading import ScenarioFile, given_resources
from testbed.scenarios.mutations import Broken, Manifest, broken, broken_shares
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


@dataclass(frozen=True)
class MutantResult:
    """What became of a mutant.  ``excused`` is the reason why it changes nothing, for those not run."""

    mutant: Mutant
    record: ScenarioRecord | None = None
    excused: str = ""

    @property
    def killed(self) -> bool:
        """Whether the scenario noticed: only a FAIL counts, INCONCLUSIVE has survived."""
        return self.record is not None and self.record.outcome is Outcome.FAIL

    @property
    def verdict(self) -> Verdict | None:
        """The scenario's verdict under the mutant."""
        return self.record.verdict if self.record else None


@dataclass(frozen=True)
class MutationScore:
    """All mutants of a scenario."""

    scenario: Scenario
    results: tuple[MutantResult, ...]

    @property
    def killed(self) -> int:
        """How many were noticed."""
        return sum(r.killed for r in self.results)

    @property
    def counted(self) -> int:
        """How many change something."""
        return sum(not r.excused for r in self.results)

    @property
    def percent(self) -> float:
        """The share noticed; 100 where there was nothing to notice."""
        return 100.0 * self.killed / self.counted if self.counted else 100.0


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
    relied_on = (("", r, _broken_claims(r, file.scenario, points)) for r in _relied_on(file, base))
    seen: set[tuple[str, str]] = set()
    for step, resource, ways in (*given, *relied_on):
        for what, manifest in ways:
            mutated = _read(manifest)
            if manifest is not None and mutated is None:
                continue
            name = f"{resource.kind} {resource.name}: {what}" + (f" [{step}]" if step else "")
            if (name, resource.digest) not in seen:
                seen.add((name, resource.digest))
                yield Mutant(name, resource.key, resource.digest, mutated)


def run_mutants(
    file: ScenarioFile, lab: LabUnderTest, *, progress: Callable[[str], None] = lambda _: None
) -> MutationScore:
    """Run the scenario under each of its mutants, one straight after the other; then the lab is put back.

    Of a scenario that is not applicable in this lab there are none.
    Raises what reading the lab's resources raises, and LabError when they could not be put back.
    """
    results: list[MutantResult] = []
    if why_not_applicable(file.scenario, lab):
        return MutationScore(file.scenario, ())
    before = lab.backend.applied()
    try:
        for mutant in list(mutants_of(file, before)):
            excuse = next((e.reason for e in file.scenario.equivalent if fnmatch(mutant.name, e.mutant)), "")
            if excuse:
                results.append(MutantResult(mutant, excused=excuse))
                continue
            progress(f"{file.scenario.name}: {mutant.name}")
            record = run_scenario(file, lab, change=mutant.change, mutant=mutant.name, before=before)
            results.append(MutantResult(mutant, record))
    finally:
        clean = put_back(before, lab)
    if not clean:
        raise LabError(file.scenario.name, "put the lab back as it was", "see the log", "run: testbed up")
    return MutationScore(file.scenario, tuple(results))


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


def _relied_on(file: ScenarioFile, base: ResourceSet) -> Iterator[Resource[Any]]:
    """The lab's own routes and subsets of the services that a share is claimed of, and what refuses strangers."""
    own = {resource.key for _, resource in _given(file)}
    claims = _claims(file.scenario)
    services = {s for step in file.scenario.each_step() for s in (*services_named(step.expect), step.when.service)}
    ways = {"gateway" if step.when.from_ == "gateway" else "mesh" for step in file.scenario.each_step()}
    for resource in base:
        plain = resource.to_plain()
        bound = plain.get("spec", {}).get("gateways", ["mesh"])
        if resource.kind == "VirtualService" and not ways & {"mesh" if g == "mesh" else "gateway" for g in bound}:
            continue
        about = _destinations(plain) | {str(plain.get("spec", {}).get("host", "")).partition(".")[0]}
        if resource.key not in own and (
            (resource.kind == "PeerAuthentication" and "tls" in claims)
            or (resource.kind in ("VirtualService", "DestinationRule") and "share" in claims and about & services)
        ):
            yield resource


def _claims(scenario: Scenario) -> set[str]:
    leaves = [leaf for step in scenario.each_step() for leaf in walk(step.expect)]
    shares = {"split", "never", "atLeastOnce"} & {name for name, _ in leaves}
    refused = any(name == "denied" and value.by == "tls" for name, value in leaves)
    return {claim for claim, made in (("share", shares), ("tls", refused)) if made}


def _broken_claims(resource: Resource[Any], scenario: Scenario, points: float) -> Iterator[Broken]:
    """A resource of the lab is there for other things too: only what the claims are about is broken."""
    if resource.kind == "PeerAuthentication":
        yield from broken(resource.to_plain(), points)
        return
    leaves = [leaf for step in scenario.each_step() for leaf in walk(step.expect)]
    arms = {arm for name, value in leaves if name == "split" for arm, weight in value.weights.items() if weight}
    for what, manifest in broken_shares(resource.to_plain(), points):
        if resource.kind == "VirtualService" or any(what.startswith(f"subset {arm}:") for arm in arms):
            yield what, manifest


def _destinations(manifest: Manifest) -> set[str]:
    rules = manifest.get("spec", {}).get("http", [])
    return {a.get("destination", {}).get("host", "").partition(".")[0] for r in rules for a in r.get("route", [])}


def _read(manifest: Manifest | None) -> Resource[Any] | None:
    if manifest is None:
        return None
    try:
        return next(iter(load(parse(json.dumps(manifest), "mutant"))))
    except (BadInput, StopIteration):
        return None
