"""The cluster's part of a plan: servers in turn, then agents all at once beside the mesh's control plane."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.plan.lab import ObservedLab, WantedCluster, WantedLab
from testbed.plan.steps import DeployPods, InstallControlPlane, InstallNode, RetireControlPlanes, Stage, Step


def cluster_steps(wanted: WantedLab, observed: ObservedLab, renewed: frozenset[str]) -> Iterator[Step]:
    """What makes ``wanted.cluster``; ``renewed`` are nodes whose machine is made anew in this plan.

    etcd takes one new member at a time, so servers join in turn; an agent needs only the first one.  Begun with the
    server, it was no sooner there in the one run that tried it: it asks a server that still starts over and over.
    """
    cluster = wanted.cluster
    if cluster is None:
        return
    seen = {n: m.cluster for n, m in observed.machines.items() if n not in renewed}
    first, before = cluster.servers[0], ""
    for node in cluster.servers:
        if seen.get(node) != cluster.nodes[node]:
            needs = {f"boot:{node}", *([before] if before else [])}
            if node == first:
                # begun while servers of the lab's last cluster still answer, it would be a second one
                needs |= {f"remove:{server}" for server in cluster.servers}
            does = "start the cluster on it" if node == first else "let it join the cluster as a server"
            yield _node(node, does, "its API answers and it is Ready", needs)
            before = _name(node)
    for node in cluster.agents:
        if seen.get(node) != cluster.nodes[node]:
            needs = {f"boot:{node}", _name(first)}
            yield _node(node, "let it join the cluster", "the API says that it is Ready", needs)
    changed = any(seen.get(n) != cluster.nodes[n] for n in (*cluster.servers, *cluster.agents))
    if observed.control_plane != cluster.control_plane or first in renewed:
        yield Step(
            "control-plane",
            InstallControlPlane(),
            _installs(cluster, observed),
            "down",
            "its Deployments are available at this version and with these settings",
            Stage.CLUSTER,
            # istiod runs on servers: agents join meanwhile
            frozenset(_name(n) for n in cluster.servers),
        )
    if observed.pods != cluster.pods or changed:
        yield Step(
            "pods",
            DeployPods(),
            "put the workloads into the cluster and wait until their pods are available",
            "down",
            "their Deployments are available as the inventory has them",
            Stage.CLUSTER,
            frozenset(("control-plane", *(_name(n) for n in (*cluster.servers, *cluster.agents)))),
        )


def retire_steps(wanted: WantedLab, observed: ObservedLab, renewed: frozenset[str]) -> Iterator[Step]:
    """What ends an upgrade of Istio, once all proxies went over to the wanted revision: the plan's last step."""
    cluster = wanted.cluster
    if cluster is None or renewed.issuperset(cluster.servers):
        return
    others = sorted(observed.revisions - {cluster.revision})
    if others:
        yield Step(
            "retire-control-plane",
            RetireControlPlanes(),
            f"remove Istio's control plane {', '.join(others)} once no proxy is connected to it",
            "up, with its version in the inventory",
            f"the cluster has no revision of Istio but {cluster.revision}",
            Stage.MESH,
            frozenset(("control-plane", "pods", "workloads", "mesh")),
        )


def _installs(cluster: WantedCluster, observed: ObservedLab) -> str:
    others = ", ".join(sorted(observed.revisions - {cluster.revision}))
    beside = f" as {cluster.revision} beside {others}" if others else ""
    return f"install Istio's control plane{beside} and wait until it is available"


def _name(node: str) -> str:
    return f"cluster:{node}"


def _node(node: str, does: str, done_when: str, needs: set[str]) -> Step:
    return Step(_name(node), InstallNode(node), does, "down", done_when, Stage.CLUSTER, frozenset(needs))
