"""Whether the lab has what a scenario names: a name that is wrong would be found to hold by looking at nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from testbed.errors import BadInput, Problem
from testbed.model.expectation import Expectation
from testbed.model.topology import MeshWorkload, ProxyKind, Topology
from testbed.scenarios.loading import ScenarioFile

Path = tuple[str | int, ...]
Unknown = tuple[Path, str, str, set[str]]
"""Where it stands, what it should be, its name, and those that there are."""

SERVICES = ("service", "reached", "at")
"""Fields of expectations that name a service or a workload; ``workload`` does, too, for a proxy's configuration."""


def check_names(*files: ScenarioFile, topology: Topology) -> None:
    """Raises BadInput with every service, workload, version and zone that the lab doesn't have, and its place."""
    problems = [
        Problem(file.locate(path), f"the lab has no {what} {name!r}", f"it has: {', '.join(sorted(known))}")
        for file in files
        for path, what, name, known in _in_scenario(file, topology)
    ]
    if problems:
        raise BadInput(sorted(problems, key=lambda p: p.location))


def _in_scenario(file: ScenarioFile, topology: Topology) -> Iterator[Unknown]:
    scenario, everybody = file.scenario, _everybody(topology)
    single = scenario.when is not None
    yield from _settings(("given", "settings"), scenario.given.settings, everybody)
    for number, step in enumerate(scenario.each_step()):
        at: Path = () if single else ("steps", number)
        when = (*at, "when")
        if step.when.from_ != "gateway":
            yield from _one_of((*when, "from"), "workload or service", step.when.from_, everybody)
        if step.when.service is not None:
            services = {s.name for s in topology.services}
            yield from _one_of((*when, "service"), "service", step.when.service, services)
        yield from _settings((*at, "given", "settings"), step.given.settings, everybody)
        yield from _in_expectation(step.expect, (*at, "expect"), step.when.service, topology)


def _settings(at: Path, settings: Any, known: set[str]) -> Iterator[Unknown]:
    for name in settings:
        yield from _one_of((*at, name), "workload or service", name, known)


def _in_expectation(expect: Expectation, at: Path, called: str | None, topology: Topology) -> Iterator[Unknown]:
    everybody, instances = _everybody(topology), {w.name for w in topology.workloads}
    for path, name, value in expect.placed(at):
        for field in SERVICES:
            named = getattr(value, field, None)
            if named is not None:
                yield from _one_of((*path, field), "workload or service", named, everybody)
        if (workload := getattr(value, "workload", None)) is not None:
            known = everybody if name == "config" else instances
            yield from _one_of((*path, "workload"), "workload", workload, known)
        if (version := getattr(value, "version", None)) is not None:
            service = value.service or called
            versions = {w.version for w in topology.workloads if _serves(w, service)}
            yield from _one_of((*path, "version"), f"version of {service}:", version, versions)
        yield from _own(path, name, value, topology)


def _own(path: Path, name: str, value: Any, topology: Topology) -> Iterator[Unknown]:
    """What only expectations of this name have."""
    instances = {w.name for w in topology.workloads}
    if name == "split" and value.by != "header":
        known = _arms(value.by, topology, value.service)
        for arm, share in value.weights.items():
            if share:  # that nobody is called so is as good a reason to get nothing
                yield from _one_of((*path, "weights", arm), value.by, arm, known)
    elif name in ("never", "atLeastOnce"):
        yield from _one_of((*path, "arm"), value.by, value.arm, _arms(value.by, topology))
    elif name == "timeToFailover" and value.zone is not None:
        yield from _one_of((*path, "zone"), "zone", value.zone, _arms("zone", topology))
    elif name == "balance" and value.avoid is not None:
        yield from _one_of((*path, "avoid"), "workload", value.avoid, instances)
    elif name == "sticky":
        for gone in value.gone:
            yield from _one_of((*path, "gone"), "workload", gone, instances)
    elif name == "identity" and value.caller is not None and "://" not in value.caller:
        yield from _one_of((*path, "caller"), "workload or service", value.caller, _everybody(topology))


def _arms(by: str, topology: Topology, service: str | None = None) -> set[str]:
    """Whom answers can come from; of all services, where none is named."""
    workloads = [w for w in topology.workloads if _serves(w, service)]
    return {
        "version": {w.version for w in workloads},
        "instance": {w.name for w in workloads},
        "zone": {w.locality.zone for w in workloads},
        "service": {w.service for w in workloads},
    }[by]


def _serves(workload: MeshWorkload, service: str | None) -> bool:
    if workload.kind is ProxyKind.GATEWAY or not workload.service:
        return False
    return service is None or service in (workload.name, workload.labels.get("app"))


def _everybody(topology: Topology) -> set[str]:
    """Workloads and gateways by their names, services by theirs."""
    services = {w.labels.get("app", "") for w in topology.workloads if w.kind is not ProxyKind.GATEWAY}
    return (services | {w.name for w in topology.workloads}) - {""}


def _one_of(path: Path, what: str, name: str, known: set[str]) -> Iterator[Unknown]:
    if name not in known:
        yield path, what, name, known
