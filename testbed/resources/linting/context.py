"""What the checks ask: which hosts, ports, subsets and workloads there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from testbed.documents import Document, Path
from testbed.model.topology import MeshWorkload, Topology
from testbed.resources.authentication import MutualTLSMode
from testbed.resources.destination_rule import DestinationRule
from testbed.resources.resource import Resource, ResourceSet
from testbed.resources.validation.names import host_subset
from testbed.resources.values import Destination, LabelSelector, selects
from testbed.resources.virtual_service import VirtualService


def full_host(host: str, namespace: str) -> str:
    """A short name is of the resource's own namespace; all else is taken as it stands."""
    return host if "." in host or host.startswith("*") else f"{host}.{namespace}.svc.cluster.local"


@dataclass(frozen=True)
class Context:
    """Everything that is linted together.  Without a topology, what only it can tell is not checked."""

    documents: tuple[Document, ...]
    resources: ResourceSet
    topology: Topology | None = None
    ports: Mapping[str, frozenset[int]] = field(init=False)
    """Hosts of the registry with their ports."""

    def __post_init__(self) -> None:
        ports: dict[str, frozenset[int]] = {}
        if self.topology is not None:
            ports.update({s.host: frozenset(p.number for p in s.ports) for s in self.topology.services})
        for service in self.services:
            metadata, spec = service.value.get("metadata") or {}, service.value.get("spec") or {}
            host = full_host(str(metadata.get("name")), str(metadata.get("namespace") or "default"))
            listed = spec.get("ports") or ()
            ports[host] = frozenset(
                p["port"] for p in listed if isinstance(p, dict) and isinstance(p.get("port"), int)
            )
        for entry in self.resources.service_entries:
            for host in entry.spec.hosts:
                ports[host] = ports.get(host, frozenset()) | {p.number for p in entry.spec.ports}
        object.__setattr__(self, "ports", ports)

    @cached_property
    def services(self) -> list[Document]:
        """Kubernetes Services among the documents."""
        return [d for d in self.documents if _is_service(d.value)]

    @property
    def knows_hosts(self) -> bool:
        """Whether it can be said that a host does not exist."""
        return self.topology is not None

    def known(self, host: str) -> bool:
        """Whether the registry has the host, itself or by a ServiceEntry's wildcard."""
        return host in self.ports or any(h.startswith("*") and host_subset(host, h) for h in self.ports)

    @cached_property
    def workloads(self) -> tuple[MeshWorkload, ...]:
        """Of the topology; none without one."""
        return self.topology.workloads if self.topology else ()

    @cached_property
    def root_namespace(self) -> str:
        """Where policies count for the whole mesh."""
        return self.topology.root_namespace if self.topology else "istio-system"

    @cached_property
    def rules_by_host(self) -> Mapping[str, list[Resource[DestinationRule]]]:
        """DestinationRules by their full host."""
        found: dict[str, list[Resource[DestinationRule]]] = {}
        for rule in self.resources.destination_rules:
            found.setdefault(full_host(rule.spec.host, rule.namespace), []).append(rule)
        return found

    def rules_for(self, host: str) -> list[Resource[DestinationRule]]:
        """The DestinationRules that count for a host: its own, else those of wildcards."""
        own = self.rules_by_host.get(host)
        if own:
            return own
        return [
            r
            for h, rules in self.rules_by_host.items()
            if h.startswith("*") and host_subset(host, h)
            for r in rules
        ]

    def selected(self, namespace: str, labels: Mapping[str, str]) -> list[MeshWorkload]:
        """Workloads that a policy of that namespace with that selector is for."""
        everywhere = namespace == self.root_namespace
        return [w for w in self.workloads if (everywhere or w.namespace == namespace) and selects(labels, w.labels)]

    def behind(self, host: str) -> list[MeshWorkload]:
        """The workloads of a service of the topology."""
        services = [s for s in (self.topology.services if self.topology else ()) if s.host == host]
        return [
            w
            for s in services
            for w in self.workloads
            if w.namespace == s.namespace and selects(s.selector, w.labels)
        ]

    def mutual_tls(self, workload: MeshWorkload, port: int = 0) -> MutualTLSMode:
        """What the workload accepts: its own policy's mode, its namespace's, the mesh's, else PERMISSIVE."""
        levels: list[list[MutualTLSMode]] = [[], [], []]
        for policy in self.resources.peer_authentications:
            spec = policy.spec
            labels = labels_of(spec.selector)
            mode = spec.mtls.mode if spec.mtls else MutualTLSMode.UNSET
            if port in spec.port_level_mtls:
                mode = spec.port_level_mtls[port].mode
            if mode is MutualTLSMode.UNSET:
                continue
            if policy.namespace == workload.namespace and labels and selects(labels, workload.labels):
                levels[0].append(mode)
            elif not labels and policy.namespace == workload.namespace:
                levels[1].append(mode)
            elif not labels and policy.namespace == self.root_namespace:
                levels[2].append(mode)
        return next((modes[0] for modes in levels if modes), MutualTLSMode.PERMISSIVE)

    def destinations(self) -> Iterator[tuple[Resource[VirtualService], Path, Destination]]:
        """Every destination in a VirtualService, mirrors among them."""
        for service in self.resources.virtual_services:
            for path, destination in _destinations(service.spec):
                yield service, ("spec", *path), destination


def labels_of(selector: LabelSelector | None) -> Mapping[str, str]:
    """The labels of a selector that may be absent."""
    return selector.match_labels if selector else {}


def _destinations(spec: VirtualService) -> Iterator[tuple[Path, Destination]]:
    for i, http in enumerate(spec.http):
        for j, part in enumerate(http.route):
            yield ("http", i, "route", j, "destination"), part.destination
        if http.mirror is not None:
            yield ("http", i, "mirror"), http.mirror
        for j, mirror in enumerate(http.mirrors):
            yield ("http", i, "mirrors", j, "destination"), mirror.destination
    routes: Iterable[tuple[str, Any]] = (("tls", spec.tls), ("tcp", spec.tcp))
    for name, rules in routes:
        for i, rule in enumerate(rules):
            for j, part in enumerate(rule.route):
                yield (name, i, "route", j, "destination"), part.destination


def _is_service(value: object) -> bool:
    return isinstance(value, dict) and value.get("apiVersion") == "v1" and value.get("kind") == "Service"
