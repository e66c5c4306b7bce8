"""Pods and their homes: the node that the inventory has a workload on.

Kubernetes moves a pod off a node that is lost or drained, and never back: its scheduler looks only at pods that
have no node yet.  So one that is away has to leave once its home takes pods again, and its successor prefers that.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import dataclass

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.leaving import let_go
from testbed.backends.istio.nodes import ClusterNode, cluster_nodes, is_true
from testbed.backends.istio.places import WORKLOAD_LABEL, ClusterPlaces, named
from testbed.backends.istio.reaching import api_of
from testbed.errors import LabError
from testbed.lab.lab import Lab
from testbed.model.topology import MeshWorkload
from testbed.waiting import NotYet, wait_until

HOME_LIMIT = 300.0
"""Seconds for a pod to be available at home; an emulated node takes some twenty."""
TAKES_PODS_LIMIT = 300.0
"""Seconds for a node that was lost to count as well again."""


@dataclass(frozen=True)
class BoundPod:
    """A workload's pod that has a node and is not on its way out."""

    workload: str
    home: str
    """The node that the inventory has it on."""
    name: str
    namespace: str
    node: str
    """The one that it is on."""
    available: bool = True

    @property
    def is_away(self) -> bool:
        """Whether it is on another node than its own."""
        return self.node != self.home


def to_send_home(pods: Iterable[BoundPod], nodes: Iterable[ClusterNode]) -> tuple[BoundPod, ...]:
    """The pods that are away and whose home takes pods, by workload."""
    homes = {n.name for n in nodes if n.takes_pods}
    return tuple(sorted((p for p in pods if p.is_away and p.home in homes), key=lambda p: p.workload))


class Homes:
    """Where a lab's pods are, and the way home."""

    def __init__(self, api: KubeApi, workloads: Iterable[MeshWorkload]) -> None:
        """``workloads``: those in the cluster."""
        self._api = api
        self._homes = {w.name: w.node for w in workloads}

    def pods(self) -> tuple[BoundPod, ...]:
        """Those that have a node, by workload."""
        found = []
        for pod in self._api.every("/api/v1/pods", WORKLOAD_LABEL):
            metadata, node = pod["metadata"], (pod.get("spec") or {}).get("nodeName", "")
            workload = metadata["labels"][WORKLOAD_LABEL]
            if metadata.get("deletionTimestamp") or not node or workload not in self._homes:
                continue
            status = pod.get("status") or {}
            if status.get("phase") in ("Failed", "Succeeded"):  # the kubelet turned it away; it has a successor
                continue
            home, available = self._homes[workload], is_true(pod, "Ready")
            found.append(BoundPod(workload, home, metadata["name"], metadata["namespace"], node, available))
        return tuple(sorted(found, key=lambda p: p.workload))

    def to_send(self) -> tuple[BoundPod, ...]:
        """See :func:`to_send_home`."""
        away = [pod for pod in self.pods() if pod.is_away]
        return to_send_home(away, cluster_nodes(self._api)) if away else ()

    def send(self, cancel: threading.Event | None = None) -> tuple[str, ...]:
        """Let go what :meth:`to_send` has, one after the other, each once the one before is available at home; the
        workloads.  Raises :class:`~testbed.errors.WaitTimeout` for one that does not get there."""
        sent = self.to_send()
        for pod in sent:
            let_go(self._api, pod.namespace, pod.name)
            wait_until(
                f"{pod.workload} is available on {pod.home} again", lambda pod=pod: self._require_home(pod),  # type: ignore[misc]
                limit=HOME_LIMIT, interval=1, cancel=cancel, next_step="see: testbed status",
            )  # fmt: skip
        return tuple(pod.workload for pod in sent)

    def require_pods_taken(self, nodes: Collection[str]) -> None:
        """Raise :class:`NotYet` unless all of these are Ready and free of taints; what is cordoned stays so."""
        for node in cluster_nodes(self._api):
            if node.name in nodes and not (node.ready and not node.tainted):
                raise NotYet(f"{node.name} is {'tainted' if node.ready else 'not Ready'}")

    def _require_home(self, sent: BoundPod) -> None:
        found = next((p for p in self.pods() if p.workload == sent.workload), None)
        if found is None:
            raise NotYet("its pod has no node")
        if found.is_away or not found.available:
            raise NotYet(f"{found.name} is on {found.node}{'' if found.available else ', not available'}")


def pods_of(lab: Lab) -> tuple[MeshWorkload, ...]:
    """The workloads in the cluster."""
    inside = nodes_of(lab)
    return tuple(w for w in lab.topology.workloads if w.node in inside)


def nodes_of(lab: Lab) -> frozenset[str]:
    """The nodes of the cluster."""
    return frozenset(n.name for n in lab.inventory.nodes if n.cluster is not None)


def bound_pods(lab: Lab) -> tuple[BoundPod, ...]:
    """Where the lab's pods are now.  Raises LabError when the API does not answer."""
    with closing(api_of(lab)) as api:
        return Homes(api, pods_of(lab)).pods()


def bring_home(lab: Lab, lost: Collection[str] = (), cancel: threading.Event | None = None) -> tuple[str, ...]:
    """Send home what is away and can go; the workloads.

    ``lost``: nodes that were lost to the cluster, or may have been, and are waited for until they take pods.
    """
    lost = sorted(nodes_of(lab) & set(lost))

    def taken() -> None:
        try:
            with closing(api_of(lab)) as api:
                Homes(api, pods_of(lab)).require_pods_taken(lost)
        except LabError as e:  # it may have been on what was lost
            raise NotYet(str(e)) from None

    if lost:
        wait_until(
            f"{', '.join(lost)} take pods", taken, limit=TAKES_PODS_LIMIT, interval=1, cancel=cancel,
            next_step="see: testbed status",
        )  # fmt: skip
    with closing(api_of(lab)) as api:
        sent = Homes(api, pods_of(lab)).send(cancel)
    if sent:
        name_namespaces(lab)
    return sent


def name_namespaces(lab: Lab) -> None:
    """Give each pod's network namespace the workload's name on its node, as workloads on machines have it.

    A pod that was made anew has another namespace: this is repeated before anything looks for one by name.
    """
    with closing(api_of(lab)) as api:
        places = ClusterPlaces(api, lab.topology, nodes_of(lab)).proxies()
    for workload in pods_of(lab):
        if workload.name in places:
            place = places[workload.name]
            lab.connection(place.node).run(named(place, workload.name))
