"""Checks of DestinationRules, ServiceEntries and Sidecars."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.documents import Path
from testbed.resources.authentication import MutualTLSMode
from testbed.resources.destination_rule import ClientTLSMode, DestinationRule, TrafficPolicy
from testbed.resources.linting.context import Context, full_host
from testbed.resources.linting.findings import Hit, Severity, check
from testbed.resources.resource import Resource
from testbed.resources.validation.names import partial_wildcard
from testbed.resources.values import selects

_ALL = 100
"""Per cent."""


def _policies(rule: Resource[DestinationRule]) -> Iterator[tuple[Path, TrafficPolicy]]:
    if rule.spec.traffic_policy is not None:
        yield ("spec", "trafficPolicy"), rule.spec.traffic_policy
    for i, subset in enumerate(rule.spec.subsets):
        if subset.traffic_policy is not None:
            yield ("spec", "subsets", i, "trafficPolicy"), subset.traffic_policy


@check("rule-for-unknown-host", Severity.WARNING, "the rule applies to nothing")
def rule_for_unknown_host(context: Context) -> Iterator[Hit]:
    """A DestinationRule for a host that the registry does not have."""
    for rule in context.resources.destination_rules if context.knows_hosts else ():
        host = full_host(rule.spec.host, rule.namespace)
        if not host.startswith("*") and not context.known(host):
            yield rule, ("spec", "host"), f"there is no host {host!r}", "write the host of a service"


@check("empty-subset", Severity.WARNING, "requests for the subset are answered 503, with the flag UH")
def empty_subset(context: Context) -> Iterator[Hit]:
    """A subset whose labels no workload of the service carries."""
    for rule in context.resources.destination_rules:
        workloads = context.behind(full_host(rule.spec.host, rule.namespace))
        for i, subset in enumerate(rule.spec.subsets):
            if workloads and not any(selects(subset.labels, w.labels) for w in workloads):
                labels = ", ".join(f"{k}={v}" for k, v in subset.labels.items())
                message = f"no workload of {rule.spec.host} has {labels}"
                yield rule, ("spec", "subsets", i, "labels"), message, "write labels that its workloads carry"


@check(
    "mtls-turned-off", Severity.ERROR, "every request of the mesh to this host fails: the server wants mutual TLS"
)
def mtls_turned_off(context: Context) -> Iterator[Hit]:
    """A DestinationRule that leaves mutual TLS where a PeerAuthentication is STRICT."""
    for rule in context.resources.destination_rules:
        host = full_host(rule.spec.host, rule.namespace)
        workloads = context.behind(host)
        strict = any(context.mutual_tls(w) is MutualTLSMode.STRICT for w in workloads)
        if not workloads and host.endswith(".svc.cluster.local"):
            strict = _strict_without_topology(context, host.split(".")[1])
        for path, policy in _policies(rule) if strict else ():
            if policy.tls is not None and policy.tls.mode is not ClientTLSMode.ISTIO_MUTUAL:
                message = f"tls mode {policy.tls.mode}, but {host} is STRICT"
                yield rule, (*path, "tls", "mode"), message, "write ISTIO_MUTUAL, or leave tls out"


def _strict_without_topology(context: Context, namespace: str) -> bool:
    if context.topology is not None:
        return False
    wide = [
        p for p in context.resources.peer_authentications if not (p.spec.selector and p.spec.selector.match_labels)
    ]
    for place in (namespace, context.root_namespace):
        for policy in wide:
            if policy.namespace == place and policy.spec.mtls is not None:
                return policy.spec.mtls.mode is MutualTLSMode.STRICT
    return False


@check("rules-for-one-host", Severity.WARNING, "their subsets are joined; of policies the first by name counts")
def rules_for_one_host(context: Context) -> Iterator[Hit]:
    """Several DestinationRules for one host in one namespace."""
    for host, rules in context.rules_by_host.items():
        first: dict[str, Resource[DestinationRule]] = {}
        for rule in rules:
            if rule.spec.workload_selector is not None:
                continue
            older = first.setdefault(rule.namespace, rule)
            if older is not rule:
                yield rule, ("spec", "host"), f"{older.key} is for {host} too", "join the two"


@check("ignored-field", Severity.WARNING, "Istio 1.30 reads the field and does nothing with it")
def ignored_field(context: Context) -> Iterator[Hit]:
    """A field without effect: outlierDetection.consecutiveErrors, sourceSubnet of tcp matches."""
    for service in context.resources.virtual_services:
        for i, tcp in enumerate(service.spec.tcp):
            for j, match in enumerate(tcp.match):
                if match.source_subnet:
                    at: Path = ("spec", "tcp", i, "match", j, "sourceSubnet")
                    yield service, at, "sourceSubnet is ignored", "write an AuthorizationPolicy with ipBlocks"
    for rule in context.resources.destination_rules:
        for path, policy in _policies(rule):
            if policy.outlier_detection and policy.outlier_detection.consecutive_errors:
                at = (*path, "outlierDetection", "consecutiveErrors")
                yield (
                    rule,
                    at,
                    "consecutiveErrors is ignored",
                    "write consecutive5xxErrors or consecutiveGatewayErrors",
                )


@check("failover-without-outliers", Severity.WARNING, "endpoints never count as failed, so nothing fails over")
def failover_without_outliers(context: Context) -> Iterator[Hit]:
    """Locality failover without outlierDetection."""
    for rule in context.resources.destination_rules:
        for path, policy in _policies(rule):
            setting = policy.load_balancer.locality_lb_setting if policy.load_balancer else None
            if setting and (setting.failover or setting.failover_priority) and policy.outlier_detection is None:
                at = (*path, "loadBalancer", "localityLbSetting")
                yield rule, at, "failover without outlierDetection", "write outlierDetection beside loadBalancer"


@check("all-may-be-left-out", Severity.INFO, "while all are left out, callers are answered 503, with the flag UH")
def all_may_be_left_out(context: Context) -> Iterator[Hit]:
    """A maxEjectionPercent of 100 without minHealthPercent: a slow moment may leave out the last endpoint, too."""
    for rule in context.resources.destination_rules:
        for path, policy in _policies(rule):
            outliers = policy.outlier_detection
            if outliers and outliers.max_ejection_percent == _ALL and not outliers.min_health_percent:
                at = (*path, "outlierDetection", "maxEjectionPercent")
                advice = "write minHealthPercent: with fewer healthy ones than that, all get requests"
                yield rule, at, "every endpoint may be left out at once, also when they are only slow", advice


@check(
    "partial-wildcard", Severity.WARNING, "the star stands for whole labels only, so such a host matches nothing"
)
def partial_wildcard_host(context: Context) -> Iterator[Hit]:
    """A ServiceEntry host such as *foo.com."""
    for entry in context.resources.service_entries:
        for i, host in enumerate(entry.spec.hosts):
            if partial_wildcard(host):
                yield entry, ("spec", "hosts", i), f"a partial wildcard {host!r}", "write '*.' and a host"


@check("several-sidecars", Severity.ERROR, "which of them a workload gets is left open")
def several_sidecars(context: Context) -> Iterator[Hit]:
    """Several Sidecars without a selector in one namespace."""
    first: dict[str, str] = {}
    for sidecar in context.resources.sidecars:
        if sidecar.spec.workload_selector is None or not sidecar.spec.workload_selector.labels:
            other = first.setdefault(sidecar.namespace, sidecar.name)
            if other != sidecar.name:
                message = f"{other} is for all workloads of {sidecar.namespace} too"
                yield sidecar, ("metadata", "name"), message, "join the two, or write a workloadSelector"
