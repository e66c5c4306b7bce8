"""PeerAuthentication: what a workload's port accepts of its peers.

The narrowest policy that sets a mode wins: port, workload, namespace, mesh; UNSET takes what the wider one
has, and with none at all it is PERMISSIVE.  Of two policies for the same scope the first by name counts.  Two rules
of istiod that its reference does not spell out: a policy with a selector in the root namespace is ignored,
and so is ``portLevelMtls`` of a policy without a selector (pilot/pkg/security/authn/policy_applier.go).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from testbed.model.topology import MeshWorkload, ProxyKind, Topology
from testbed.resources.authentication import MutualTLS, MutualTLSMode, PeerAuthentication
from testbed.resources.resource import ResourceSet
from testbed.resources.values import selects


class PeerMode(Enum):
    """What is accepted: DISABLE plaintext only, PERMISSIVE both, STRICT mutual TLS only."""

    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


@dataclass(frozen=True)
class PeerModes:
    """A workload's mode, and the ports that have another."""

    default: PeerMode = PeerMode.PERMISSIVE
    ports: Mapping[int, PeerMode] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, port: int) -> PeerMode:
        """The mode of a port that the workload listens on."""
        return self.ports.get(port, self.default)


def peer_modes(resources: ResourceSet, workload: MeshWorkload, topology: Topology) -> PeerModes:
    """What ``workload`` accepts, by port."""
    mesh: PeerAuthentication | None = None
    namespace: PeerAuthentication | None = None
    narrow: PeerAuthentication | None = None
    for resource in resources.peer_authentications:
        policy = resource.spec
        selector = policy.selector.match_labels if policy.selector else {}
        if resource.namespace == topology.root_namespace:
            if not selector:
                mesh = mesh or policy
        elif resource.namespace == workload.namespace and not selector:
            namespace = namespace or policy
        elif resource.namespace == workload.namespace and selects(selector, workload.labels):
            narrow = narrow or policy
    mode = PeerMode.PERMISSIVE
    for found in (mesh, namespace, narrow):
        if found is not None:
            mode = _mode(found.mtls, mode)
    ports = {port: _mode(mtls, mode) for port, mtls in narrow.port_level_mtls.items()} if narrow else {}
    return PeerModes(mode, MappingProxyType(ports))


def peer_mode(resources: ResourceSet, workload: MeshWorkload, port: int, topology: Topology) -> PeerMode:
    """What ``workload`` accepts on ``port`` (the one it listens on, not the service's)."""
    return peer_modes(resources, workload, topology).of(port)


def accepts_mutual_tls(resources: ResourceSet, workload: MeshWorkload, port: int, topology: Topology) -> bool:
    """Whether auto mTLS sends mutual TLS to that endpoint (istiod's ``tlsMode: istio`` label on it).

    Every sidecar takes it unless the port's mode is DISABLE.
    """
    takes_it = workload.kind is not ProxyKind.GATEWAY  # in Istio's ambient mode a tunnel is mutual TLS, too
    return takes_it and peer_mode(resources, workload, port, topology) is not PeerMode.DISABLE


def _mode(mtls: MutualTLS | None, parent: PeerMode) -> PeerMode:
    if mtls is None or mtls.mode is MutualTLSMode.UNSET:
        return parent
    return PeerMode(mtls.mode.value)
