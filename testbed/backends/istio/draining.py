"""Nodes that are emptied and used again, as ``kubectl drain`` and ``uncordon`` do it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.leaving import let_go
from testbed.waiting import NotYet

Object = Mapping[str, Any]


class NodeDrain:
    """One node of a cluster, emptied of what can run elsewhere."""

    def __init__(self, api: KubeApi, node: str) -> None:
        self._api = api
        self._node = node

    def cordon(self) -> None:
        """No pod is put on the node from now on."""
        self._set(unschedulable=True)

    def uncordon(self) -> None:
        """Pods may come again."""
        self._set(unschedulable=False)

    def _set(self, *, unschedulable: bool) -> None:
        path = self._api.path("v1", "Node", "", self._node)
        manifest = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._node}}
        self._api.apply(path, {**manifest, "spec": {"unschedulable": unschedulable}})

    def empty(self) -> None:
        """Let every pod go that can run elsewhere; raises :class:`NotYet` while one is there."""
        nodes = list(self._api.every(self._api.path("v1", "Node")))
        pods = self._api.every(self._api.path("v1", "Pod"))
        here = [p for p in pods if p.get("spec", {}).get("nodeName") == self._node]
        left = list(movable(here, nodes, self._node))
        for pod in left:
            let_go(self._api, pod["metadata"]["namespace"], pod["metadata"]["name"])
        if left:
            raise NotYet(f"{', '.join(p['metadata']['name'] for p in left)} are still on it")


def movable(pods: Iterable[Object], nodes: Iterable[Object], node: str) -> Iterator[Object]:
    """Of the pods on ``node`` those that a drain moves.

    A DaemonSet's and a static pod would come back at once, one that no other node may run would only be gone, and a
    finished one does nothing.
    """
    others = [n["metadata"].get("labels", {}) for n in nodes if n["metadata"]["name"] != node and _takes(n)]
    for pod in pods:
        metadata = pod["metadata"]
        owners = {owner["kind"] for owner in metadata.get("ownerReferences", [])}
        if not owners or owners & {"DaemonSet", "Node"} or _ended(pod):
            continue
        wanted = (pod["spec"].get("nodeSelector") or {}).items()
        if any(wanted <= labels.items() for labels in others):
            yield pod


def _ended(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _takes(node: Object) -> bool:
    """Whether pods are put on it."""
    conditions = {c["type"]: c["status"] for c in node.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and not node.get("spec", {}).get("unschedulable")
