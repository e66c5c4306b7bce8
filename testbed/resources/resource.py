"""A resource (one manifest with its place in a file) and an immutable set of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar, cast

import testbed.resources.kubernetes_gateway as k8s
from testbed.documents import Document
from testbed.errors import Location, Problem
from testbed.model.proxy import content_hash
from testbed.resources.authentication import PeerAuthentication, RequestAuthentication
from testbed.resources.authorization import AuthorizationPolicy
from testbed.resources.destination_rule import DestinationRule
from testbed.resources.gateway import Gateway
from testbed.resources.service_entry import ServiceEntry, WorkloadEntry
from testbed.resources.sidecar import Sidecar
from testbed.resources.telemetry import Telemetry
from testbed.resources.values import Message, to_plain
from testbed.resources.virtual_service import VirtualService

Spec_co = TypeVar("Spec_co", bound=Message, covariant=True)
AnySpec = TypeVar("AnySpec", bound=Message)


class Key(NamedTuple):
    """What makes a resource the same one: the version of its API is no part of it."""

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, eq=False)
class Resource(Generic[Spec_co]):
    """One resource.  Two are equal when everything but their place in a file is."""

    kind: str
    api_version: str
    name: str
    namespace: str
    spec: Spec_co
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    document: Document = field(repr=False, default_factory=lambda: Document("", {}))

    @property
    def key(self) -> Key:
        """Its key in a set."""
        return Key(self.api_version.rpartition("/")[0], self.kind, self.namespace, self.name)

    @property
    def file(self) -> str:
        """The file that it was read from."""
        return self.document.file

    def locate(self, *path: str | int) -> Location:
        """Where a field stands, by the names in YAML: ``locate("spec", "http", 0, "route")``."""
        return self.document.locate(path)

    def to_plain(self) -> dict[str, Any]:
        """The manifest in plain values; only what was set."""
        metadata: dict[str, Any] = {"name": self.name}
        if self.namespace:
            metadata["namespace"] = self.namespace
        if self.labels:
            metadata["labels"] = dict(self.labels)
        if self.annotations:
            metadata["annotations"] = dict(self.annotations)
        manifest = {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata}
        spec = to_plain(self.spec)
        return {**manifest, "spec": spec} if spec else manifest

    @cached_property
    def digest(self) -> str:
        """A hash of the content (not of the place in a file): equal digests mean equal resources."""
        spec = self.spec.model_dump_json(by_alias=True, exclude_unset=True)
        meta = sorted(self.labels.items()), sorted(self.annotations.items())
        return content_hash(self.api_version, *self.key, repr(meta), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resource) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


AnyResource = Resource[Message]
"""A resource of any kind."""


class ResourceSet:
    """Resources in the order in which they were given, one per key.  Immutable.

    Where Istio goes by the time of creation, then ``name.namespace``, here the name alone decides (see :meth:`of`).
    ``ignored`` says which documents were left out (Kubernetes' own kinds), and why.
    """

    def __init__(self, resources: Iterable[Resource[Message]] = (), ignored: Iterable[Problem] = ()) -> None:
        self._by_key: dict[Key, Resource[Message]] = {r.key: r for r in resources}
        self.ignored = tuple(ignored)
        self._by_type: dict[type[Message], tuple[Resource[Message], ...]] | None = None

    def of(self, spec: type[AnySpec]) -> tuple[Resource[AnySpec], ...]:
        """All resources whose spec is of that type, by name, then namespace: the order in which they count.

        That is istiod's order for resources of the same second, and so for all that one ``kubectl apply`` makes
        (sortByCreationComparator).  It depends on no history: an export, or a snapshot, read again means the same.
        """
        if self._by_type is None:
            kinds: dict[type[Message], list[Resource[Message]]] = {}
            for resource in self._by_key.values():
                kinds.setdefault(type(resource.spec), []).append(resource)
            self._by_type = {
                kind: tuple(sorted(found, key=lambda r: f"{r.name}.{r.namespace}")) for kind, found in kinds.items()
            }
        return cast("tuple[Resource[AnySpec], ...]", self._by_type.get(spec, ()))

    @property
    def virtual_services(self) -> tuple[Resource[VirtualService], ...]:
        """Every VirtualService."""
        return self.of(VirtualService)

    @property
    def destination_rules(self) -> tuple[Resource[DestinationRule], ...]:
        """Every DestinationRule."""
        return self.of(DestinationRule)

    @property
    def gateways(self) -> tuple[Resource[Gateway], ...]:
        """Every Gateway of networking.istio.io."""
        return self.of(Gateway)

    @property
    def service_entries(self) -> tuple[Resource[ServiceEntry], ...]:
        """Every ServiceEntry."""
        return self.of(ServiceEntry)

    @property
    def workload_entries(self) -> tuple[Resource[WorkloadEntry], ...]:
        """Every WorkloadEntry."""
        return self.of(WorkloadEntry)

    @property
    def sidecars(self) -> tuple[Resource[Sidecar], ...]:
        """Every Sidecar."""
        return self.of(Sidecar)

    @property
    def peer_authentications(self) -> tuple[Resource[PeerAuthentication], ...]:
        """Every PeerAuthentication."""
        return self.of(PeerAuthentication)

    @property
    def request_authentications(self) -> tuple[Resource[RequestAuthentication], ...]:
        """Every RequestAuthentication."""
        return self.of(RequestAuthentication)

    @property
    def authorization_policies(self) -> tuple[Resource[AuthorizationPolicy], ...]:
        """Every AuthorizationPolicy."""
        return self.of(AuthorizationPolicy)

    @property
    def telemetries(self) -> tuple[Resource[Telemetry], ...]:
        """Every Telemetry."""
        return self.of(Telemetry)

    @property
    def kubernetes_gateways(self) -> tuple[Resource[k8s.Gateway], ...]:
        """Every Gateway of gateway.networking.k8s.io."""
        return self.of(k8s.Gateway)

    @property
    def http_routes(self) -> tuple[Resource[k8s.HTTPRoute], ...]:
        """Every HTTPRoute."""
        return self.of(k8s.HTTPRoute)

    @property
    def grpc_routes(self) -> tuple[Resource[k8s.GRPCRoute], ...]:
        """Every GRPCRoute."""
        return self.of(k8s.GRPCRoute)

    @property
    def reference_grants(self) -> tuple[Resource[k8s.ReferenceGrant], ...]:
        """Every ReferenceGrant."""
        return self.of(k8s.ReferenceGrant)

    def get(self, key: Key) -> Resource[Message] | None:
        """The resource of that key."""
        return self._by_key.get(key)

    def keys(self) -> tuple[Key, ...]:
        """All keys, in order."""
        return tuple(self._by_key)

    def merged(self, other: ResourceSet) -> ResourceSet:
        """This set with the other's resources: those of the same key are replaced in place, new ones come last."""
        return ResourceSet(
            {**self._by_key, **other._by_key}.values(), dict.fromkeys((*self.ignored, *other.ignored))
        )

    def without(self, keys: Iterable[Key]) -> ResourceSet:
        """This set less the resources of those keys; absent keys don't matter."""
        gone = set(keys)
        return ResourceSet((r for k, r in self._by_key.items() if k not in gone), self.ignored)

    def __iter__(self) -> Iterator[Resource[Message]]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResourceSet) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self._by_key))

    def __repr__(self) -> str:
        return f"ResourceSet({', '.join(map(str, self._by_key))})"
