"""Nodes that are emptied and used again, as ``kubectl drain`` and ``uncordon`` do it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.leaving import let_go
from testbed.backends.istio.nodes import Object, cluster_node
from testbed.waiting import NotYet


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
    others = (n["metadata"] for n in nodes if cluster_node(n).takes_pods)
    labels_of_others = [other.get("labels", {}) for other in others if other["name"] != node]
    for pod in pods:
        metadata = pod["metadata"]
        owners = {owner["kind"] for owner in metadata.get("ownerReferences", [])}
        if not owners or owners & {"DaemonSet", "Node"} or _ended(pod):
            continue
        wanted = (pod["spec"].get("nodeSelector") or {}).items()
        if any(wanted <= labels.items() for labels in labels_of_others):
            yield pod


def _ended(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
