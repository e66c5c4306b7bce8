"""What runs on each node: the document that a deploy lays on it, and that the node's own tool takes up."""

from __future__ import annotations

import hashlib
import json

from testbed.deploy import DeployHost, run_deploy
from testbed.deploy.sidecar import routes
from testbed.host.directories import testbed_home
from testbed.lab.lab import Lab
from testbed.lab.snapshots import each
from testbed.model.inventory import Workload
from testbed.model.reading import instances
from testbed.model.topology import MeshWorkload, ProxyKind
from testbed.workflows.istio import sidecar_of
from testbed.workflows.nodes import ssh_config_file

DEPLOY_LIMIT = 120.0
"""Seconds for all nodes to set up their workloads."""
_FILE = "/etc/testbed/workloads.json"
TAKE_UP = (
    "sh",
    "-c",
    # by rename: a machine may die at any time
    f"cat >{_FILE}.new && mv {_FILE}.new {_FILE} && exec python3 -ISE /opt/testbed/node/testbed_node.py converge",
)


def workloads_document(lab: Lab, node: str) -> str:
    """``workloads.json`` of a node."""
    declared = {i.name: i.workload for i in instances(lab.inventory, lab.scale)}
    inside = {n.name for n in lab.inventory.nodes if n.cluster is not None}
    here = [w for w in lab.topology.workloads if w.node == node and node not in inside]  # there they are pods
    entries = [_entry(w, declared.get(w.name), lab.inventory.networks.mesh.prefixlen) for w in here]
    if lab.has_cluster:
        for workload, entry in zip(here, entries, strict=True):
            entry["routes"] = routes(lab.inventory)
            # the node doesn't read it: with it another sidecar is another document
            entry["sidecar"] = sidecar_of(lab, workload).digest
    return json.dumps(entries, indent=1, sort_keys=True) + "\n"


def workloads_digest(lab: Lab, node: str) -> str:
    """SHA-256 of the document, as the node reports it."""
    return hashlib.sha256(workloads_document(lab, node).encode()).hexdigest()


def _entry(workload: MeshWorkload, declared: Workload | None, prefix: int) -> dict[str, object]:
    return {
        "name": workload.name,
        "namespace": workload.namespace,
        "service": workload.service,
        "version": workload.version,
        "address": str(workload.address),
        "prefix": prefix,
        "gateway": workload.kind is ProxyKind.GATEWAY,
        "program": declared.program if declared else "none",
        "ports": [p.target for p in workload.ports],
        "env": dict(declared.settings) if declared else {},
    }


def hand_over_workloads(lab: Lab, nodes: tuple[str, ...]) -> None:
    """What the deploy does, over kept connections: for nodes that are known to have another document.

    pyinfra's start and its own connections are most of what one more workload takes.
    """
    each(nodes, lambda node: lab.connection(node).run(TAKE_UP, stdin=workloads_document(lab, node).encode()))


def deploy_workloads(lab: Lab, nodes: tuple[str, ...]) -> None:
    """Lay the document on each node and let it be taken up, by a pyinfra deploy."""
    hosts = [DeployHost(node, {"workloads": workloads_document(lab, node)}) for node in nodes]
    deploy = testbed_home() / "playbooks" / "deploys" / "workloads.py"
    run_deploy(deploy, hosts, ssh_config=ssh_config_file(lab), limit=DEPLOY_LIMIT).require()
