"""What Istio refuses in a ServiceEntry and a WorkloadEntry."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.documents import Path
from testbed.resources.service_entry import Resolution, ServiceEntry, WorkloadEntry
from testbed.resources.validation.names import (
    HTTP_PROTOCOLS,
    PROTOCOLS,
    TLS_PROTOCOLS,
    Finding,
    domain_fault,
    export_to_findings,
    is_dns_label,
    is_ip,
    labels_findings,
    selector_findings,
    subnet_fault,
)

_UNIX = "unix://"
_DNS = (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)


def service_entry(spec: ServiceEntry, namespace: str, at: Path) -> Iterator[Finding]:
    """All findings, in the order of the fields."""
    yield from _hosts(spec, at)
    for i, address in enumerate(spec.addresses):
        if fault := subnet_fault(address):
            yield (*at, "addresses", i), fault, "write an address or a network"
        elif "/" in address and spec.resolution in _DNS:
            yield (
                (*at, "addresses", i),
                f"a network goes with NONE or STATIC, not {spec.resolution}",
                "write an address",
            )
    yield from _ports(spec, at)
    if spec.workload_selector is not None:
        yield from selector_findings(spec.workload_selector.labels, (*at, "workloadSelector", "labels"))
        if spec.endpoints:
            yield (*at, "endpoints"), "workloadSelector and endpoints exclude each other", "keep one of them"
    if spec.endpoints and spec.resolution is Resolution.NONE:
        yield (*at, "endpoints"), "resolution NONE takes no endpoints", "write resolution: STATIC or DNS"
    if len(spec.endpoints) > 1 and spec.resolution is Resolution.DNS_ROUND_ROBIN:
        yield (*at, "endpoints"), "DNS_ROUND_ROBIN takes one endpoint at most", "write resolution: DNS"
    names = {port.name for port in spec.ports}
    for i, endpoint in enumerate(spec.endpoints):
        here = (*at, "endpoints", i)
        yield from workload_entry(endpoint, here, fqdn=spec.resolution in _DNS)
        for name in endpoint.ports:
            if name not in names:
                yield (*here, "ports", name), f"the service has no port {name!r}", f"write one of {sorted(names)}"
        if endpoint.address.startswith(_UNIX) and len(spec.ports) != 1:
            yield (*here, "address"), "a unix:// endpoint goes with exactly one port", "keep one port"
    yield from export_to_findings(spec.export_to, namespace, (*at, "exportTo"), nobody=True)


def workload_entry(spec: WorkloadEntry, at: Path, fqdn: bool = True) -> Iterator[Finding]:
    """All findings; ``fqdn``: the address may be a name."""
    if not spec.address and not spec.network:
        yield (*at, "address"), "no address", "write an IP address or a name"
    elif spec.address.startswith(_UNIX):
        path = spec.address.removeprefix(_UNIX)
        if not path.startswith(("/", "@")) or path.endswith("/"):
            yield (*at, "address"), f"{spec.address!r} names no socket", "write unix:///path/to/socket"
        if spec.ports:
            yield (*at, "ports"), "a unix:// address takes no ports", "remove them"
    elif spec.address and not is_ip(spec.address) and (not fqdn or domain_fault(spec.address, wildcard=False)):
        kind = "IP address or host name" if fqdn else "IP address, which STATIC wants"
        yield (*at, "address"), f"{spec.address!r} is no {kind}", "correct it"
    for name in spec.ports:
        if not is_dns_label(name):
            yield (*at, "ports", name), f"{name!r} is no port name", "write letters, digits and '-'"
    yield from labels_findings(spec.labels, (*at, "labels"))


def _hosts(spec: ServiceEntry, at: Path) -> Iterator[Finding]:
    if not spec.hosts:
        yield (*at, "hosts"), "no hosts", "write at least one"
    for i, host in enumerate(spec.hosts):
        if host == "*":
            yield (*at, "hosts", i), "'*' is no host of a service", "write a host, or '*.' and one"
        elif fault := domain_fault(host):
            yield (*at, "hosts", i), fault, "write a host name"
        elif "*" in host and spec.resolution in _DNS and not spec.endpoints:
            message = f"{host!r} can't be looked up by {spec.resolution} (there are no endpoints)"
            yield (*at, "hosts", i), message, "write the full name, endpoints, or resolution: NONE"


def _ports(spec: ServiceEntry, at: Path) -> Iterator[Finding]:
    names: set[str] = set()
    numbers: set[int] = set()
    for i, port in enumerate(spec.ports):
        here = (*at, "ports", i)
        if port.name in names:
            yield (*here, "name"), f"the port name {port.name!r} is given twice", "rename one"
        if port.number in numbers:
            yield (*here, "number"), f"the port {port.number} is given twice", "keep one of them"
        names.add(port.name)
        numbers.add(port.number)
        if not is_dns_label(port.name):
            yield (*here, "name"), f"{port.name!r} is no port name", "write letters, digits and '-'"
        protocol = port.protocol.lower()
        if protocol and protocol not in PROTOCOLS:
            yield (*here, "protocol"), f"unknown protocol {port.protocol!r}", "write HTTP, HTTPS, TLS, TCP, …"
        elif (
            len(spec.hosts) > 1
            and spec.resolution is not Resolution.NONE
            and protocol not in HTTP_PROTOCOLS | TLS_PROTOCOLS
        ):
            # plain TCP carries no name by which one host could be told from another
            yield here, "several hosts on a port that is neither HTTP nor TLS", "write one ServiceEntry per host"
