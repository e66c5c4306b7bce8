"""Nodes as the cluster has them: which of them a new pod may be bound to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.backends.istio.api import KubeApi

Object = Mapping[str, Any]

_CORDONED = "node.kubernetes.io/unschedulable"
"""The taint that Kubernetes sets beside ``spec.unschedulable``."""


@dataclass(frozen=True)
class ClusterNode:
    """A node as the cluster has it."""

    name: str
    ready: bool
    cordoned: bool = False
    tainted: bool = False
    """Whether pods are kept off by a taint, as Kubernetes sets it on a node that is lost."""

    @property
    def takes_pods(self) -> bool:
        """Whether a new pod may be bound to it."""
        return self.ready and not self.cordoned and not self.tainted


def cluster_node(node: Object) -> ClusterNode:
    """What an object of the kind Node says."""
    spec = node.get("spec") or {}
    taints = {t["key"] for t in spec.get("taints") or [] if t.get("effect") in ("NoSchedule", "NoExecute")}
    return ClusterNode(
        node["metadata"]["name"],
        ready=is_true(node, "Ready"),
        cordoned=bool(spec.get("unschedulable")),
        tainted=bool(taints - {_CORDONED}),
    )


def cluster_nodes(api: KubeApi) -> tuple[ClusterNode, ...]:
    """All of a cluster."""
    return tuple(cluster_node(node) for node in api.every("/api/v1/nodes"))


def is_true(thing: Object, condition: str) -> bool:
    """Whether an object's status has this condition, and it holds."""
    found: Iterable[Object] = (thing.get("status") or {}).get("conditions") or []
    return any(c["type"] == condition and c["status"] == "True" for c in found)
