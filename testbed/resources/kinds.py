"""Which kinds there are: read, refused, ignored, and the versions of their API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from testbed.resources import kubernetes_gateway as k8s
from testbed.resources.authentication import PeerAuthentication, RequestAuthentication
from testbed.resources.authorization import AuthorizationPolicy
from testbed.resources.destination_rule import DestinationRule
from testbed.resources.gateway import Gateway
from testbed.resources.service_entry import ServiceEntry, WorkloadEntry
from testbed.resources.sidecar import Sidecar
from testbed.resources.telemetry import Telemetry
from testbed.resources.values import Message
from testbed.resources.virtual_service import VirtualService

NETWORKING = "networking.istio.io"
SECURITY = "security.istio.io"
TELEMETRY = "telemetry.istio.io"
GATEWAY_API = "gateway.networking.k8s.io"

_ISTIO_NETWORKING = ("v1", "v1beta1", "v1alpha3")
_ISTIO_SECURITY = ("v1", "v1beta1")


@dataclass(frozen=True)
class Kind:
    """A kind that is read.  ``versions``: today's first."""

    group: str
    name: str
    spec: type[Message]
    versions: tuple[str, ...]
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """Group and today's version."""
        return f"{self.group}/{self.versions[0]}"


KINDS: tuple[Kind, ...] = (
    Kind(NETWORKING, "VirtualService", VirtualService, _ISTIO_NETWORKING),
    Kind(NETWORKING, "DestinationRule", DestinationRule, _ISTIO_NETWORKING),
    Kind(NETWORKING, "Gateway", Gateway, _ISTIO_NETWORKING),
    Kind(NETWORKING, "ServiceEntry", ServiceEntry, _ISTIO_NETWORKING),
    Kind(NETWORKING, "WorkloadEntry", WorkloadEntry, _ISTIO_NETWORKING),
    Kind(NETWORKING, "Sidecar", Sidecar, _ISTIO_NETWORKING),
    Kind(SECURITY, "PeerAuthentication", PeerAuthentication, _ISTIO_SECURITY),
    Kind(SECURITY, "RequestAuthentication", RequestAuthentication, _ISTIO_SECURITY),
    Kind(SECURITY, "AuthorizationPolicy", AuthorizationPolicy, _ISTIO_SECURITY),
    Kind(TELEMETRY, "Telemetry", Telemetry, ("v1", "v1alpha1")),
    Kind(GATEWAY_API, "GatewayClass", k8s.GatewayClass, ("v1", "v1beta1"), namespaced=False),
    Kind(GATEWAY_API, "Gateway", k8s.Gateway, ("v1", "v1beta1")),
    Kind(GATEWAY_API, "HTTPRoute", k8s.HTTPRoute, ("v1", "v1beta1")),
    Kind(GATEWAY_API, "GRPCRoute", k8s.GRPCRoute, ("v1",)),
    Kind(GATEWAY_API, "ReferenceGrant", k8s.ReferenceGrant, ("v1", "v1beta1")),
)

BY_NAME: Mapping[tuple[str, str], Kind] = MappingProxyType({(k.group, k.name): k for k in KINDS})
BY_SPEC: Mapping[type[Message], Kind] = MappingProxyType({k.spec: k for k in KINDS})

_IN_THE_LAB = "the inventory says which services, workloads and accounts there are"

IGNORED_KINDS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        **{
            ("", kind): _IN_THE_LAB
            for kind in ("Service", "ServiceAccount", "Namespace", "Pod", "Endpoints", "ConfigMap", "Secret")
        },
        **{("apps", kind): _IN_THE_LAB for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")},
        ("discovery.k8s.io", "EndpointSlice"): _IN_THE_LAB,
        ("autoscaling", "HorizontalPodAutoscaler"): _IN_THE_LAB,
        ("policy", "PodDisruptionBudget"): _IN_THE_LAB,
        ("rbac.authorization.k8s.io", "Role"): "the mesh does not read Kubernetes' own permissions",
        ("rbac.authorization.k8s.io", "RoleBinding"): "the mesh does not read Kubernetes' own permissions",
        ("rbac.authorization.k8s.io", "ClusterRole"): "the mesh does not read Kubernetes' own permissions",
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"): "the mesh does not read Kubernetes' own permissions",
    }
)
"""Kubernetes' own kinds, as they stand in pasted files: left out, and said so."""
