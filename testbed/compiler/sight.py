"""What of a mesh is the same for many proxies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from testbed.compiler.destinationrules import DestinationRules, MergedRule
from testbed.compiler.layout import Layout
from testbed.compiler.memory import CompileCache
from testbed.compiler.registration import registry
from testbed.compiler.scope import Scope, scope, sidecar_of
from testbed.compiler.security import PeerMode, SecurityInputs, peer_modes
from testbed.compiler.services import Endpoint, Registry, Service
from testbed.compiler.telemetry import Logging, logging_of
from testbed.compiler.virtualservices import RoutedHosts, routed_hosts
from testbed.model.proxy import content_hash
from testbed.model.topology import MeshWorkload, ProxyKind, Topology
from testbed.resources.resource import ResourceSet


@dataclass(frozen=True)
class Sight:
    """What proxies have in common, made once and remembered: the services, the rules, and who sees what of them."""

    resources: ResourceSet
    topology: Topology
    layout: Layout
    cache: CompileCache
    inputs: SecurityInputs
    _rules_of: dict[tuple[object, ...], dict[str, MergedRule | None]] = field(default_factory=dict)

    # What is the same for all

    @cached_property
    def topology_digest(self) -> str:
        """Of services, workloads and the mesh's settings."""
        return self.cache.of_object(self.topology, lambda: content_hash(repr(self.topology)))

    @cached_property
    def registry(self) -> Registry:
        """Services and endpoints."""
        entries = (*self.resources.service_entries, *self.resources.workload_entries)
        key = "registry", self.topology_digest, *(r.digest for r in entries)
        return self.cache.get(key, lambda: registry(self.resources, self.topology))

    @cached_property
    def routed(self) -> tuple[RoutedHosts, ...]:
        """VirtualServices."""
        return routed_hosts(self.resources, self.cache)

    @cached_property
    def routed_digest(self) -> str:
        """Of all VirtualServices."""
        return content_hash(*(r.digest for r in self.routed))

    @cached_property
    def rules_digest(self) -> str:
        """Of all DestinationRules."""
        return content_hash(*(r.digest for r in self.resources.destination_rules))

    @cached_property
    def rules(self) -> DestinationRules:
        """DestinationRules."""
        key = "rules", self.rules_digest, self.topology.root_namespace
        root = self.topology.root_namespace
        return self.cache.get(key, lambda: DestinationRules(self.resources.destination_rules, root))

    @cached_property
    def peers_digest(self) -> str:
        """Of all that decides on mutual TLS."""
        return content_hash(self.topology_digest, *(r.digest for r in self.resources.peer_authentications))

    def disabled(self, namespace: str) -> bool:
        """Whether a namespace takes plaintext only: then callers don't even offer TLS (istiod's best guess)."""
        nobody = replace(self.topology.workloads[0], name="", namespace=namespace, labels={})

        def build() -> bool:
            return peer_modes(self.resources, nobody, self.topology).default is PeerMode.DISABLE

        return self.cache.get(("disabled", self.peers_digest, namespace), build)

    def takes_tls(self, endpoint: Endpoint) -> bool:
        """Whether mesh TLS is for this endpoint."""
        if not endpoint.sidecar:
            return False
        if not self.resources.peer_authentications:
            return True
        labels = endpoint.workload.labels if endpoint.workload else endpoint.labels
        like = endpoint.workload or self.topology.workloads[0]
        who = replace(like, namespace=endpoint.namespace, labels=labels)
        key = "peer", self.peers_digest, endpoint.namespace, tuple(sorted(labels.items()))
        modes = self.cache.get(key, lambda: peer_modes(self.resources, who, self.topology))
        return modes.of(endpoint.port) is not PeerMode.DISABLE

    # What is the same for a namespace, or for callers that look alike

    def scope(self, workload: MeshWorkload) -> Scope:
        """What the workload's proxy sees."""
        gateway = workload.kind is ProxyKind.GATEWAY
        sidecar = None if gateway else sidecar_of(self.resources, workload, self.topology)
        namespace = workload.namespace
        digest = sidecar.digest if sidecar is not None else ""
        key = "scope", namespace, digest, self.registry.digest, self.routed_digest
        return self.cache.get(key, lambda: scope(namespace, sidecar, self.registry, self.routed))

    def selector_view(self, workload: MeshWorkload) -> tuple[tuple[str, str], ...]:
        """The labels that DestinationRules' workload selectors ask for."""
        return tuple(sorted((k, v) for k, v in workload.labels.items() if k in self.rules.selector_keys))

    def rule_of(self, workload: MeshWorkload) -> Callable[[Service], MergedRule | None]:
        """The DestinationRule for a service, for callers like the workload."""
        labels = self.selector_view(workload)
        known = self._rules_of.setdefault((workload.namespace, labels), {})

        def find(service: Service) -> MergedRule | None:
            key = f"{service.namespace}/{service.host}"
            if key not in known:
                known[key] = self.rules.of(service, workload.namespace, dict(labels))
            return known[key]

        return find

    def logging(self, workload: MeshWorkload) -> tuple[Logging, Logging]:
        """What the workload's proxy logs of its calls, and of those that it receives."""
        digests = tuple(r.digest for r in self.resources.telemetries)
        if not digests:
            return self.cache.get("logging", lambda: logging_of(self.resources, workload, self.topology))
        key = "logging", digests, workload.name, self.topology_digest
        return self.cache.get(key, lambda: logging_of(self.resources, workload, self.topology))
