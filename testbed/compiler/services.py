"""The registry: what can be called, and who answers; registration.py fills it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import ip_network
from typing import Any

from testbed.model.proxy import content_hash
from testbed.model.topology import Locality, MeshWorkload, Protocol, ServicePort

UNSPECIFIED = "0.0.0.0"  # noqa: S104 - a service without an address of its own


class Resolution(Enum):
    """How endpoints are found: known here, by DNS at the proxy, or by where the caller connects to."""

    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    NONE = "NONE"


@dataclass(frozen=True)
class Service:
    """Something that can be called."""

    host: str
    namespace: str
    ports: tuple[ServicePort, ...]
    addresses: tuple[str, ...] = ()
    resolution: Resolution = Resolution.STATIC
    external: bool = False
    export_to: tuple[str, ...] = ("*",)
    subject_alt_names: tuple[str, ...] = ()
    is_entry: bool = False
    digest: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", content_hash(repr((self.host, self.namespace, self.ports, self.addresses,
            self.resolution, self.external, self.export_to, self.subject_alt_names, self.is_entry))))  # fmt: skip

    def port(self, number: int) -> ServicePort | None:
        """The port of that number."""
        return next((p for p in self.ports if p.number == number), None)

    def at(self, address: str) -> Service:
        """The service at one of its addresses: istiod makes a service of each."""
        return self if len(self.addresses) < 2 else replace(self, addresses=(address,))

    @property
    def address(self) -> str:
        """Where its TCP listeners are: its first address, else ``0.0.0.0``."""
        return self.addresses[0] if self.addresses else UNSPECIFIED

    def visible_from(self, namespace: str) -> bool:
        """Whether ``exportTo`` lets that namespace see it."""
        return exported(self.export_to, self.namespace, namespace)


def exported(export_to: Sequence[str], owner: str, client: str) -> bool:
    """``exportTo`` of a resource in ``owner`` as ``client`` sees it; an empty one means everybody."""
    if not export_to or "*" in export_to:
        return True
    return client in export_to or (owner == client and "." in export_to)


@dataclass(frozen=True)
class Endpoint:
    """Somebody who answers for a service's port."""

    address: str
    """An IP address, a DNS name, or ``unix://`` and a path."""
    port: int
    labels: Mapping[str, str]
    locality: Locality
    weight: int
    namespace: str
    identity: str
    """SPIFFE identity; empty for endpoints that have none."""
    sidecar: bool
    """Whether a proxy that takes mutual TLS is in front of it."""
    workload: MeshWorkload | None = None


@dataclass(frozen=True)
class Registry:
    """Services and endpoints."""

    services: tuple[Service, ...]
    trust_domain: str
    by_host: Mapping[str, tuple[Service, ...]]
    digest: str
    _endpoints: Mapping[tuple[str, str], Callable[[ServicePort], Sequence[Endpoint]]] = field(repr=False)
    _known: dict[tuple[str, str, str], Any] = field(default_factory=dict, repr=False)

    def endpoints(self, service: Service, port: ServicePort) -> Sequence[Endpoint]:
        """Who answers for that port, in order of address."""
        return self._endpoints[service.namespace, service.host](port)

    def identities(self, service: Service) -> tuple[str, ...]:
        """What its endpoints may present themselves as: their SPIFFE identities and ``subjectAltNames``."""
        key = "identities", service.namespace, service.host
        if key not in self._known:
            found = {e.identity for p in service.ports[:1] for e in self.endpoints(service, p) if e.identity}
            self._known[key] = tuple(sorted(found | set(service.subject_alt_names)))
        names: tuple[str, ...] = self._known[key]
        return names

    def services_of(self, workload: MeshWorkload) -> tuple[Service, ...]:
        """The services that the workload answers for."""
        key = "members", "", ""
        if key not in self._known:
            members: dict[str, list[Service]] = {}
            for service in self.services:
                for name in {
                    e.workload.name for p in service.ports for e in self.endpoints(service, p) if e.workload
                }:
                    members.setdefault(name, []).append(service)
            self._known[key] = {name: tuple(found) for name, found in members.items()}
        found: tuple[Service, ...] = self._known[key].get(workload.name, ())
        return found

    def listens(self, workload: MeshWorkload, service: Service, port: ServicePort) -> tuple[int, ...]:
        """Where the workload takes what is sent to that port of a service; empty if it does not answer for it."""
        own = (e.port for e in self.endpoints(service, port) if e.workload and e.workload.name == workload.name)
        return tuple(dict.fromkeys(own))

    def content(self, service: Service) -> str:
        """A digest of the service and all its endpoints."""
        key = service.digest, service.namespace, service.host
        if key not in self._known:
            members = [[_content(e) for e in self.endpoints(service, p)] for p in service.ports]
            self._known[key] = content_hash(service.digest, repr(members))
        digest: str = self._known[key]
        return digest

    def lookup(self, host: str, namespace: str) -> Service | None:
        """The service of that host that clients in a namespace mean: their own first, then any they can see."""
        visible = [s for s in self.by_host.get(host, ()) if s.visible_from(namespace)]
        return next((s for s in visible if s.namespace == namespace), visible[0] if visible else None)


def _content(endpoint: Endpoint) -> tuple[object, ...]:
    node = endpoint.workload.node if endpoint.workload else ""
    labels = sorted(endpoint.labels.items())
    return (endpoint.address, endpoint.port, labels, str(endpoint.locality), endpoint.weight, endpoint.namespace,
            endpoint.identity, endpoint.sidecar, node)  # fmt: skip


_PROTOCOLS = {p.value: p for p in Protocol if p is not Protocol.AUTO} | {"HTTP_PROXY": Protocol.HTTP}


def protocol_of(name: str) -> Protocol:
    """Of a ServiceEntry's or a Sidecar's port: what is not said is told by the first bytes, not by the port's name.

    Those that no filter of plain Envoy reads (Mongo, Redis, MySQL) are TCP.
    """
    text = name.upper()
    if not text:
        return Protocol.AUTO
    return _PROTOCOLS.get(text, Protocol.TCP)


def is_address(text: str) -> bool:
    """Whether it is an IP address or a block of them (and not a name)."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True
