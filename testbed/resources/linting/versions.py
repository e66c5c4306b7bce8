"""Checks of what is outdated, but still read."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.documents import Path
from testbed.resources.destination_rule import SimpleLB
from testbed.resources.kinds import BY_SPEC
from testbed.resources.linting.context import Context
from testbed.resources.linting.findings import Hit, Severity, check
from testbed.resources.outdated import migrate_step


@check("outdated-version", Severity.INFO, "it is read as today's version")
def outdated_version(context: Context) -> Iterator[Hit]:
    """An apiVersion that is not today's."""
    for resource in context.resources:
        today = BY_SPEC[type(resource.spec)].api_version
        if resource.api_version != today:
            step = migrate_step(today, resource.file)
            yield resource, ("apiVersion",), f"{resource.api_version} has a successor", step


@check("deprecated-field", Severity.WARNING, "it still works; a later release may drop it")
def deprecated_field(context: Context) -> Iterator[Hit]:
    """A field that Istio has replaced."""
    for service in context.resources.virtual_services:
        for i, rule in enumerate(service.spec.http):
            at: Path = ("spec", "http", i)
            cors, delay = rule.cors_policy, rule.fault.delay if rule.fault else None
            found: list[tuple[Path, bool, str]] = [
                ((*at, "mirrorPercent"), rule.mirror_percent is not None, "mirrorPercentage.value"),
                ((*at, "corsPolicy", "allowOrigin"), bool(cors and cors.allow_origin), "allowOrigins"),
                ((*at, "fault", "delay", "percent"), bool(delay and delay.percent), "percentage.value"),
            ]
            for path, given, today in found:
                if given:
                    yield service, path, f"{path[-1]} is deprecated", f"write {today}"
    for rule_ in context.resources.destination_rules:
        policies = [(("spec", "trafficPolicy"), rule_.spec.traffic_policy)]
        balancer = policies[0][1].load_balancer if policies[0][1] else None
        if balancer is None:
            continue
        where = (*policies[0][0], "loadBalancer")
        if balancer.simple is SimpleLB.LEAST_CONN:
            yield rule_, (*where, "simple"), "LEAST_CONN is deprecated", "write LEAST_REQUEST"
        if balancer.warmup_duration_secs is not None:
            yield rule_, (*where, "warmupDurationSecs"), "warmupDurationSecs is deprecated", "write warmup.duration"
        if balancer.consistent_hash and balancer.consistent_hash.minimum_ring_size:
            at = (*where, "consistentHash", "minimumRingSize")
            yield rule_, at, "minimumRingSize is deprecated", "write ringHash.minimumRingSize"
