"""The cluster that an inventory describes, as a plan needs to know it."""

from __future__ import annotations

import json

from testbed.artifacts import needed, on_nodes, read_catalogue
from testbed.deploy.k3s import k3s_files
from testbed.model.inventory import Inventory
from testbed.model.proxy import content_hash
from testbed.plan import WantedCluster


def wanted_cluster(inventory: Inventory) -> WantedCluster | None:
    """What shall be on each node and in the cluster; None for a backend without one.

    The token for joining is no part of it: it is made with the lab, and a plan makes nothing.
    """
    if inventory.mesh.backend != "istio":
        return None
    catalogue = read_catalogue()
    k3s = inventory.cluster.version or catalogue.default("k3s")
    istio = inventory.mesh.version or catalogue.default("istio")
    servers, agents = inventory.servers(), inventory.agents()
    archives = [place for place, artifact in on_nodes(needed(inventory, catalogue)).items() if artifact.is_image]
    settings = json.dumps(inventory.mesh.config, sort_keys=True)
    return WantedCluster(
        servers=tuple(n.name for n in servers),
        agents=tuple(n.name for n in agents),
        nodes={
            n.name: content_hash(k3s, k3s_files(inventory, n, "", archives).digest) for n in (*servers, *agents)
        },
        control_plane=content_hash(istio, inventory.mesh.mode, inventory.mesh.trust_domain, settings),
    )
