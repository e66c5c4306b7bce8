"""The mesh's topology: which services exist, which workloads back them, and where each one is.

This is all that the compiler and the backends need to know of a lab; it says nothing of machines beyond
their names.  Words follow Istio: a *service* is a name that can be called, a *workload* is one instance
of it, with a proxy (its *sidecar*, or the *gateway* itself, or its node's *ztunnel*).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network


class Protocol(StrEnum):
    """A port's protocol, as Istio's ``Port.protocol`` or the prefix of the port's name gives it."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    GRPC_WEB = "GRPC-WEB"
    """gRPC as browsers speak it; proxies translate it to gRPC."""
    HTTPS = "HTTPS"
    TLS = "TLS"
    TCP = "TCP"
    AUTO = "AUTO"
    """Not said: each connection's first bytes tell whether it is HTTP."""

    @property
    def is_http(self) -> bool:
        """Whether proxies read this protocol as HTTP (requests are routed, not connections)."""
        return self is Protocol.HTTP or self.is_http2

    @property
    def is_http2(self) -> bool:
        """Whether the workload is spoken to in HTTP/2."""
        return self in (Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB)

    @property
    def is_grpc(self) -> bool:
        """Whether calls are gRPC's, from browsers or not."""
        return self in (Protocol.GRPC, Protocol.GRPC_WEB)

    @property
    def may_be_http(self) -> bool:
        """Whether requests may come, and so have routes."""
        return self.is_http or self is Protocol.AUTO


@dataclass(frozen=True, order=True)
class Locality:
    """``region/zone/subzone``; empty parts match nothing and compare equal."""

    region: str = ""
    zone: str = ""
    subzone: str = ""

    @classmethod
    def parse(cls, text: str) -> Locality:
        """Read ``region/zone/subzone``; the later parts may be left out."""
        region, _, rest = text.partition("/")
        zone, _, subzone = rest.partition("/")
        return cls(region, zone, subzone)

    def __str__(self) -> str:
        return "/".join(p for p in (self.region, self.zone, self.subzone) if p)


@dataclass(frozen=True)
class ServicePort:
    """A port that a service is called on, and the port its workloads listen on (``target``)."""

    name: str
    number: int
    protocol: Protocol
    target: int


@dataclass(frozen=True)
class MeshService:
    """A service with its virtual address (from 240.240.0.0/16, as Istio allots them)."""

    name: str
    namespace: str
    address: IPv4Address
    ports: tuple[ServicePort, ...]
    selector: Mapping[str, str]

    @property
    def host(self) -> str:
        """The fully qualified name, ``name.namespace.svc.cluster.local``."""
        return f"{self.name}.{self.namespace}.svc.cluster.local"


class ProxyKind(StrEnum):
    """What a workload's proxy is: an Envoy next to a service, one that is a workload itself, or in Istio's ambient
    mode no Envoy at all but the ztunnel of its node, which other workloads share."""

    SIDECAR = "sidecar"
    GATEWAY = "gateway"
    ZTUNNEL = "ztunnel"


@dataclass(frozen=True)
class MeshWorkload:
    """One instance of a service (or a gateway, or a mere client), with an address and an identity of its own."""

    name: str
    namespace: str
    service_account: str
    labels: Mapping[str, str]
    address: IPv4Address
    node: str
    locality: Locality = Locality()
    kind: ProxyKind = ProxyKind.SIDECAR
    ports: tuple[ServicePort, ...] = ()
    """The ports that the workload itself listens on (``target`` counts); empty for a client."""
    service: str = ""
    """Name of the service (same namespace) that it was declared for; empty for gateways."""

    @property
    def version(self) -> str:
        """Its ``version`` label, the one that subsets usually select."""
        return self.labels.get("version", "")

    @property
    def has_envoy(self) -> bool:
        """Whether there is an Envoy of its own, with routes, an access log and an admin port."""
        return self.kind is not ProxyKind.ZTUNNEL

    def spiffe_id(self, trust_domain: str) -> str:
        """Its identity, ``spiffe://<trust domain>/ns/<namespace>/sa/<service account>``."""
        return f"spiffe://{trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


@dataclass(frozen=True)
class Topology:
    """A lab as the mesh sees it."""

    services: tuple[MeshService, ...]
    workloads: tuple[MeshWorkload, ...]
    trust_domain: str = "cluster.local"
    root_namespace: str = "istio-system"
    service_range: IPv4Network = field(default_factory=lambda: IPv4Network("240.240.0.0/16"))

    def workload(self, name: str) -> MeshWorkload:
        """The workload called ``name``; :class:`KeyError` when there is none."""
        for workload in self.workloads:
            if workload.name == name:
                return workload
        raise KeyError(name)

    def of_service(self, name: str) -> tuple[MeshWorkload, ...]:
        """The workloads that carry the label ``app: name``, gateways left out."""
        return tuple(w for w in self.workloads if w.labels.get("app") == name and w.kind is not ProxyKind.GATEWAY)

    def of_name(self, name: str) -> tuple[MeshWorkload, ...]:
        """The workload of that name, or all of the service of that name; a gateway by its name."""
        return tuple(w for w in self.workloads if w.name == name) or self.of_service(name)

    def service(self, host: str) -> MeshService:
        """The service with that fully qualified host; :class:`KeyError` when there is none."""
        for service in self.services:
            if service.host == host:
                return service
        raise KeyError(host)
