"""Where proxies are: the network namespace of a pod or of a machine's workload, and how to speak to what is in it.

Admin ports of Envoy, and istiod's own, answer on the loopback of their namespace only.  A container runtime names a
pod's namespace as it likes, so one is found by the pod's address.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.revisions import REVISION_LABEL
from testbed.backends.looking import request_of
from testbed.errors import MeshError
from testbed.model.topology import Topology

WORKLOAD_LABEL = "testbed.dev/workload"
"""On a pod: the workload that it is."""

ISTIOD_PORT = 8080
"""istiod's plain port, which answers debug questions to its own loopback."""

_PODS = "/api/v1/pods"

_AT = """
for net in /run/netns/*; do
  [ -n "$(ip -n "${net##*/}" -4 -o address show to "$1" 2>/dev/null)" ] || continue
  exec nsenter "--net=$net" timeout 20 bash -c "$2" - "${@:3}"
done
echo "no namespace here has the address $1" >&2
exit 1
"""

_NAME = """
for net in /run/netns/*; do
  [ -L "$net" ] && continue
  [ -n "$(ip -n "${net##*/}" -4 -o address show to "$1" 2>/dev/null)" ] || continue
  exec ln -sfn "$net" "/run/netns/$2"
done
echo "no namespace has the address $1" >&2
exit 1
"""

_EACH = """
for request in "${@:2}"; do
  exec 3<>"/dev/tcp/127.0.0.1/$1" || exit
  printf %s "$request" >&3; cat <&3; printf '\\0'
done
"""


@dataclass(frozen=True)
class Place:
    """A proxy, or istiod, as the cluster and its node know it."""

    proxy: str
    """``NAME.NAMESPACE``, as istiod calls it."""
    node: str
    address: str
    """Of its network namespace; no other on that node has it."""
    is_pod: bool = True
    """Or a workload on a machine outside the cluster."""


def exchange(place: Place, port: int, *paths: str) -> list[str]:
    """The command, for the place's node, that sends ``GET path`` to a port on the loopback of its namespace, one
    path after the other: to find the namespace and to enter it costs an emulated node more than the questions.

    It prints each answer as it came, head and all, and a NUL; it fails when the namespace is not there or nobody
    listens.
    """
    return within(place, _EACH, str(port), *map(request_of, paths))


def within(place: Place, script: str, *argv: str) -> list[str]:
    """The command, for the place's node, that runs a script of bash in its network namespace."""
    return ["bash", "-c", _AT, "-", place.address, script, *argv]


def named(place: Place, workload: str) -> list[str]:
    """The command, for the place's node, that gives its namespace the workload's name."""
    return ["bash", "-c", _NAME, "-", place.address, workload]


class Places(Protocol):
    """Where everything of a mesh is now."""

    def proxies(self) -> Mapping[str, Place]:
        """By workload; one that does not run is left out."""
        ...

    def ztunnels(self) -> Mapping[str, Place]:
        """By node, where one runs; none but in ambient mode."""
        ...

    def istiod(self) -> Place:
        """Raises :class:`MeshError` when none runs."""
        ...


class ClusterPlaces:
    """Pods as the API lists them, and workloads on machines outside the cluster as the topology has them."""

    def __init__(self, api: KubeApi, topology: Topology, cluster: Collection[str], revision: str = "") -> None:
        """``cluster``: names of the nodes that are in it; ``revision``: of istiod, when more than one may run."""
        self._api = api
        self._topology = topology
        self._cluster = frozenset(cluster)
        self._revision = revision

    def proxies(self) -> Mapping[str, Place]:
        """By workload; one without a running pod is left out."""
        pods = {labels[WORKLOAD_LABEL]: place for labels, place in self._running(WORKLOAD_LABEL)}
        found = {}
        for workload in self._topology.workloads:
            if workload.node not in self._cluster:
                name = f"{workload.name}.{workload.namespace}"
                found[workload.name] = Place(name, workload.node, str(workload.address), is_pod=False)
            elif workload.name in pods:
                found[workload.name] = pods[workload.name]
        return found

    def ztunnels(self) -> Mapping[str, Place]:
        """By node: what stands for its pods in ambient mode."""
        return {place.node: place for labels, place in self._running("app") if labels["app"] == "ztunnel"}

    def istiod(self) -> Place:
        """The one istiod of the revision: its figures are of the proxies that are connected to it, so it is one.

        Before an upgrade has begun it is the one that there is.
        """
        running = self.control_planes(self._revision) or self.control_planes("")
        if len(running) != 1:
            cause = f"{len(running)} of them run, one is expected"
            raise MeshError("istiod", "find its pod", cause, "testbed status")
        return running[0]

    def control_planes(self, revision: str) -> list[Place]:
        """Every istiod of a revision that runs; of all revisions when it is empty."""
        running = [(labels, place) for labels, place in self._running("app") if labels["app"] == "istiod"]
        return [place for labels, place in running if not revision or labels.get(REVISION_LABEL) == revision]

    def _running(self, label: str) -> list[tuple[Mapping[str, str], Place]]:
        """Pods that have ``label``, with all their labels, the newest last: while one pod of a workload takes over
        from another, it is the one that counts.  One that is being deleted has lost its place."""
        found = []
        for pod in sorted(self._api.every(_PODS, label), key=_age):
            metadata, status = pod["metadata"], pod.get("status", {})
            if metadata.get("deletionTimestamp") or status.get("phase") != "Running" or not status.get("podIP"):
                continue
            name = f"{metadata['name']}.{metadata['namespace']}"
            found.append((metadata["labels"], Place(name, pod["spec"]["nodeName"], status["podIP"])))
        return found


def _age(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"].get("creationTimestamp", ""))
