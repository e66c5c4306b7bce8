"""One node of the cluster after the other to another k3s, while the rest goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.draining import NodeDrain
from testbed.backends.istio.homes import bring_home, name_namespaces
from testbed.backends.istio.objects import LabObjects
from testbed.backends.istio.reaching import api_of
from testbed.lab.lab import Lab
from testbed.workflows.cluster import cluster_objects
from testbed.workflows.kubernetes import await_api, start_node

DRAIN_LIMIT = 900.0
"""Seconds for the pods of a node to have left it, which most do once a successor is available elsewhere."""


def upgrade_node(lab: Lab, node: str, cancel: threading.Event) -> None:
    """Drain the node, start it with the inventory's k3s, and let pods on it again.

    What was drained has to be available elsewhere before k3s is stopped.  Pods that no other node may run stay, and
    go on while k3s restarts.  What moved comes home before another node is begun with.  A drain that is called off
    leaves the node cordoned: the next try begins with that.
    """
    await_api(f"{node} is drained", partial(_asked, lab, partial(_drained, node)), cancel, limit=DRAIN_LIMIT)
    available = partial(_asked, lab, partial(_available, lab))
    await_api(f"what {node} had is available elsewhere", available, cancel)
    start_node(lab, node, cancel)
    with closing(api_of(lab)) as api:
        NodeDrain(api, node).uncordon()
    await_api(f"all pods are available with {node} upgraded", available, cancel)
    bring_home(lab, [node], cancel)
    name_namespaces(lab)


def _asked(lab: Lab, probe: Callable[[KubeApi], None]) -> None:
    with closing(api_of(lab)) as api:
        probe(api)


def _drained(node: str, api: KubeApi) -> None:
    drain = NodeDrain(api, node)
    drain.cordon()
    drain.empty()


def _available(lab: Lab, api: KubeApi) -> None:
    LabObjects(api, lab.id).available(cluster_objects(lab.inventory))
