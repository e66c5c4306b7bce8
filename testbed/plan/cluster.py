"""The cluster's part of a plan: servers in turn, then agents all at once beside the mesh's control plane."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from testbed.plan.lab import ObservedLab, ObservedMachine, WantedCluster, WantedLab
from testbed.plan.steps import (
    BringReleases,
    DeployPods,
    InstallControlPlane,
    InstallNode,
    RetireControlPlanes,
    Stage,
    Step,
    UpgradeNode,
)


def cluster_steps(wanted: WantedLab, observed: ObservedLab, renewed: frozenset[str]) -> Iterator[Step]:
    """What makes ``wanted.cluster``; ``renewed`` are nodes whose machine is made anew in this plan.

    etcd takes one new member at a time, so servers join in turn.  Agents join when servers are there: one that
    begins sooner asks a server that still starts over and over, or that waits for etcd's next member to keep up.

    Nodes with another k3s are upgraded in turn, servers first: a kubelet may be older than its API, never newer
    (Kubernetes' version skew policy).
    """
    cluster = wanted.cluster
    if cluster is None:
        return
    seen = {n: m for n, m in observed.machines.items() if n not in renewed}
    yield from _bring(wanted, cluster, seen)
    has = {n: m.cluster for n, m in seen.items()}
    first, before, upgraded = cluster.servers[0], "", ""
    for node in (*cluster.servers, *cluster.agents):
        if has.get(node) == cluster.nodes[node]:
            continue
        needs = {f"boot:{node}", f"bring:{node}"}
        if node in seen and seen[node].k3s not in ("", cluster.k3s):
            yield _upgrade(node, seen[node].k3s, cluster.k3s, needs | ({upgraded} if upgraded else set()))
            upgraded = f"upgrade:{node}"
            continue
        if node in cluster.agents:
            needs |= {*map(_name, cluster.servers), *([upgraded] if upgraded else [])}
            yield _node(node, "let it join the cluster", "the API says that it is Ready", needs)
            continue
        needs |= {before} if before else set()
        if node == first:
            # begun while servers of the lab's last cluster still answer, it would be a second one
            needs |= {f"remove:{server}" for server in cluster.servers}
        does = "start the cluster on it" if node == first else "let it join the cluster as a server"
        yield _node(node, does, "its API answers and it is Ready", needs)
        before = _name(node)
    nodes = (*cluster.servers, *cluster.agents)
    changed = any(has.get(n) != cluster.nodes[n] for n in nodes)
    if observed.control_plane != cluster.control_plane or first in renewed:
        yield Step(
            "control-plane",
            InstallControlPlane(),
            _installs(cluster, observed),
            "down",
            "its Deployments are available at this version and with these settings",
            Stage.CLUSTER,
            # istiod runs on servers: agents join meanwhile
            frozenset((*_done(cluster.servers), *(f"bring:{n}" for n in wanted.machines))),
        )
    if observed.pods != cluster.pods or changed:
        yield Step(
            "pods",
            DeployPods(),
            "put the workloads into the cluster and wait until their pods are available",
            "down",
            "their Deployments are available as the inventory has them",
            Stage.CLUSTER,
            frozenset(("control-plane", *_done(nodes))),
        )


def _bring(wanted: WantedLab, cluster: WantedCluster, seen: Mapping[str, ObservedMachine]) -> Iterator[Step]:
    for node in wanted.machines:
        has = seen[node].brought if node in seen else frozenset()
        missing = sorted(cluster.brought.get(node, frozenset()) - has)
        if missing:
            yield Step(
                f"bring:{node}",
                BringReleases(node, tuple(missing)),
                f"bring it {' and '.join(missing)}; what runs there goes on",
                "down",
                "its disk has them, and containerd their images",
                Stage.CLUSTER,
                frozenset((f"boot:{node}",)),
            )


def _upgrade(node: str, before: str, after: str, needs: set[str]) -> Step:
    return Step(
        f"upgrade:{node}",
        UpgradeNode(node),
        f"drain it, take k3s from {before} to {after}, let pods on it again",
        "down",
        "the API says that it is Ready with that version, and pods may come",
        Stage.CLUSTER,
        frozenset(needs),
    )


def _done(nodes: Iterable[str]) -> tuple[str, ...]:
    """The steps after which the nodes are as they shall be, whichever of them there are."""
    return tuple(name for n in nodes for name in (_name(n), f"upgrade:{n}"))


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
