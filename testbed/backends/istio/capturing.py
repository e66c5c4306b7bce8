"""Whether a lab is in ambient mode, and whether its pods are captured, as the API tells it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from testbed.backends.istio.ambient import CAPTURED
from testbed.backends.istio.api import ApiRefused, KubeApi
from testbed.backends.istio.objects import pod_state
from testbed.backends.istio.places import WORKLOAD_LABEL
from testbed.backends.istio.revisions import SYSTEM
from testbed.errors import LabError
from testbed.model.topology import Topology
from testbed.waiting import NotYet

_AGENTS = {"istio-cni-node": "k8s-app", "ztunnel": "app"}
"""What has to run on a pod's node -> the label that says so."""


def mode_of(api: KubeApi) -> str:
    """The mode of what is installed of Istio; where nothing is, ``sidecar``."""
    try:
        api.get(api.path("apps/v1", "DaemonSet", SYSTEM, "ztunnel"))
    except ApiRefused as e:
        if e.code == 404:
            return "sidecar"
        raise
    return "ambient"


def require_mode(found: str, mode: str, revisions: Collection[str], lab: str) -> None:
    """Raise :class:`LabError` when Istio's ``revisions`` in the cluster are of ``found``, another mode.

    Machines were made with that mode's images, and what the other mode has installed stays.
    """
    if revisions and found != mode:
        advice = "make the lab anew: testbed down, then testbed up"
        raise LabError(lab, f"use {mode} mode", f"its cluster has Istio in {found} mode", advice)


def require_captured(api: KubeApi, topology: Topology) -> None:
    """Raise :class:`NotYet` while a pod without a sidecar is not captured: it talks in plain text until then.

    It says how the two that see to it on the pod's node are.
    """
    wanted = {w.name for w in topology.workloads if not w.has_envoy}
    for pod in api.every("/api/v1/pods", WORKLOAD_LABEL):
        metadata = pod["metadata"]
        if metadata["labels"][WORKLOAD_LABEL] not in wanted or metadata.get("deletionTimestamp"):
            continue
        if metadata.get("annotations", {}).get(CAPTURED) != "enabled":
            node = pod["spec"].get("nodeName", "")
            agents = "; ".join(_agents(api, node))
            raise NotYet(f"{metadata['name']} on {node or 'no node'} is not captured: {agents}")


def _agents(api: KubeApi, node: str) -> Iterator[str]:
    for name, label in _AGENTS.items():
        here = [p for p in _pods(api, f"{label}={name}") if p["spec"].get("nodeName") == node]
        yield f"{name} {', '.join(pod_state(p) for p in here) or 'has no pod there'}"


def _pods(api: KubeApi, selector: str) -> Iterator[dict[str, Any]]:
    yield from api.every(api.path("v1", "Pod", SYSTEM), selector)
