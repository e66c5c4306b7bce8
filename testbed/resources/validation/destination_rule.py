"""What Istio refuses in a DestinationRule."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from testbed.documents import Path
from testbed.resources.destination_rule import (
    ClientTLSMode,
    ClientTLSSettings,
    ConnectionPoolSettings,
    ConsistentHashLB,
    DestinationRule,
    H2UpgradePolicy,
    LoadBalancerSettings,
    LocalityLoadBalancerSetting,
    OutlierDetection,
    PortTrafficPolicy,
    TrafficPolicy,
)
from testbed.resources.validation.names import (
    Finding,
    domain_fault,
    export_to_findings,
    is_dns_label,
    labels_findings,
    selector_findings,
)

_TOPOLOGY_LABELS = {
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
}
_MAGLEV_LIMIT = 5_000_011  # Envoy's


def destination_rule(spec: DestinationRule, namespace: str, at: Path) -> Iterator[Finding]:
    """All findings, in the order of the fields."""
    if fault := domain_fault(spec.host):
        yield (*at, "host"), fault, "write the host of a service"
    yield from _policy(spec.traffic_policy, (*at, "trafficPolicy"))
    seen: set[str] = set()
    for i, subset in enumerate(spec.subsets):
        here = (*at, "subsets", i)
        if subset.name in seen:
            yield (*here, "name"), f"the subset {subset.name!r} is given twice", "keep one of them"
        seen.add(subset.name)
        if not is_dns_label(subset.name):
            yield (*here, "name"), f"{subset.name!r} is no subset name", "write letters, digits and '-'"
        yield from labels_findings(subset.labels, (*here, "labels"))
        yield from _policy(subset.traffic_policy, (*here, "trafficPolicy"))
    yield from export_to_findings(spec.export_to, namespace, (*at, "exportTo"))
    if spec.workload_selector is not None:
        yield from selector_findings(spec.workload_selector.match_labels, (*at, "workloadSelector", "matchLabels"))
        if {namespace if e == "." else e for e in spec.export_to} - {namespace}:
            message = "a rule with workloadSelector is for its own namespace only"
            yield (*at, "exportTo"), message, "write '.' or leave it out"


def _policy(policy: TrafficPolicy | None, at: Path) -> Iterator[Finding]:
    if policy is None:
        return
    if not policy.model_fields_set:
        yield at, "an empty trafficPolicy", "write at least one field, or remove it"
    yield from _parts(policy, at)
    for i, port in enumerate(policy.port_level_settings):
        here = (*at, "portLevelSettings", i)
        if port.port is None:
            yield here, "no port", "write port with its number"
        if not port.model_fields_set - {"port"}:
            yield here, "settings for a port without a field", "write at least one field, or remove it"
        yield from _parts(port, here)


def _parts(policy: TrafficPolicy | PortTrafficPolicy, at: Path) -> Iterator[Finding]:
    if policy.load_balancer is not None:
        yield from _load_balancer(policy.load_balancer, (*at, "loadBalancer"))
    yield from connection_pool_findings(policy.connection_pool, (*at, "connectionPool"))
    yield from _outliers(policy.outlier_detection, (*at, "outlierDetection"))
    yield from _tls(policy.tls, (*at, "tls"))


def connection_pool_findings(pool: ConnectionPoolSettings | None, at: Path) -> Iterator[Finding]:
    """Also for a Sidecar's pools."""
    if pool is None:
        return
    if pool.tcp is None and pool.http is None:
        yield at, "an empty connectionPool", "write tcp or http below it, or remove it"
    if pool.http and pool.http.h2_upgrade_policy is H2UpgradePolicy.UPGRADE and pool.http.use_client_protocol:
        message = "useClientProtocol and h2UpgradePolicy UPGRADE exclude each other"
        yield (*at, "http", "useClientProtocol"), message, "keep one of them"


def _outliers(outliers: OutlierDetection | None, at: Path) -> Iterator[Finding]:
    if outliers and outliers.consecutive_local_origin_failures and not outliers.split_external_local_origin_errors:
        message = "consecutiveLocalOriginFailures counts only with splitExternalLocalOriginErrors"
        yield (*at, "consecutiveLocalOriginFailures"), message, "write splitExternalLocalOriginErrors: true"


def _load_balancer(balancer: LoadBalancerSettings, at: Path) -> Iterator[Finding]:
    if balancer.consistent_hash is not None:
        yield from _hash(balancer.consistent_hash, (*at, "consistentHash"))
    if balancer.locality_lb_setting is not None:
        yield from _locality(balancer.locality_lb_setting, (*at, "localityLbSetting"))


def _hash(hash_: ConsistentHashLB, at: Path) -> Iterator[Finding]:
    if (cookie := hash_.http_cookie) is not None:
        if not cookie.name:
            yield (*at, "httpCookie", "name"), "a cookie without a name", "write its name"
        names: set[str] = set()
        for i, attribute in enumerate(cookie.attributes):
            if not attribute.name or attribute.name in names:
                message = f"the attribute {attribute.name!r} is empty or given twice"
                yield (*at, "httpCookie", "attributes", i), message, "keep each name once"
            names.add(attribute.name)
    if hash_.minimum_ring_size and (hash_.ring_hash or hash_.maglev):
        message = "minimumRingSize and ringHash or maglev exclude each other"
        yield (*at, "minimumRingSize"), message, "write ringHash.minimumRingSize"
    if (maglev := hash_.maglev) is not None and not _is_prime(maglev.table_size):
        message = f"a Maglev table's size must be a prime below {_MAGLEV_LIMIT}"
        yield (*at, "maglev", "tableSize"), message, "write 65537, say"


def _is_prime(number: int) -> bool:
    if not 1 < number < _MAGLEV_LIMIT:
        return False
    return all(number % factor for factor in range(2, int(number**0.5) + 1))


def _locality(setting: LocalityLoadBalancerSetting, at: Path) -> Iterator[Finding]:
    if setting.distribute and setting.failover:
        yield (*at, "failover"), "distribute and failover exclude each other", "keep one of them"
    if setting.failover and _TOPOLOGY_LABELS.intersection(setting.failover_priority):
        message = "failover and topology labels in failoverPriority exclude each other"
        yield (*at, "failoverPriority"), message, "keep one of them"
    for i, rule in enumerate(setting.distribute):
        here = (*at, "distribute", i, "to")
        for place, weight in rule.to.items():
            if not 1 <= weight <= 100:
                yield (*here, place), f"a weight of {weight}", "write 1 to 100"
        if (total := sum(rule.to.values())) != 100:
            yield here, f"the weights sum to {total}", "make them sum to 100"
        yield from _localities([(place, (*here, place)) for place in rule.to])
    yield from _localities([(r.from_, (*at, "distribute", i, "from")) for i, r in enumerate(setting.distribute)])
    for i, failover in enumerate(setting.failover):
        here = (*at, "failover", i)
        if failover.from_ == failover.to:
            yield (*here, "to"), "a failover to the same region", "name another region"
        for name, region in (("from", failover.from_), ("to", failover.to)):
            if "/" in region or "*" in region:
                yield (*here, name), f"{region!r} is no region", "write a region, without zone and wildcard"


def _localities(places: list[tuple[str, Path]]) -> Iterator[Finding]:
    for place, at in places:
        if "*" in place[:-1] or not all(place.split("/")):
            yield at, f"{place!r} is no locality", "write region/zone/subzone; '*' may only end it"
    for (one, _), (other, at) in combinations(places, 2):
        short, long = sorted((one.removesuffix("*").rstrip("/"), other.removesuffix("*").rstrip("/")), key=len)
        if not short or long == short or long.startswith(short + "/"):
            yield at, f"the localities {one!r} and {other!r} overlap", "keep one of them"


def _tls(tls: ClientTLSSettings | None, at: Path) -> Iterator[Finding]:
    if tls is None:
        return
    files = (tls.client_certificate, tls.private_key, tls.ca_certificates, tls.ca_crl)
    if tls.insecure_skip_verify and (tls.ca_certificates or tls.subject_alt_names):
        message = "insecureSkipVerify excludes caCertificates and subjectAltNames"
        yield (*at, "insecureSkipVerify"), message, "remove it, so that the server is verified"
    if tls.mode in (ClientTLSMode.SIMPLE, ClientTLSMode.MUTUAL) and tls.credential_name:
        if tls.mode is ClientTLSMode.SIMPLE and tls.insecure_skip_verify:
            yield (*at, "insecureSkipVerify"), "insecureSkipVerify excludes credentialName", "keep one of them"
        if any(files):
            yield (*at, "credentialName"), "credentialName excludes certificates by files", "keep one of them"
    elif tls.mode is ClientTLSMode.MUTUAL and not (tls.client_certificate and tls.private_key):
        message = "MUTUAL needs a client certificate and its key"
        yield at, message, "write clientCertificate and privateKey, or credentialName; or mode: ISTIO_MUTUAL"
