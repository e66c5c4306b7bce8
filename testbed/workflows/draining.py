"""One node of the cluster after the other to another k3s, while the rest goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

from testbed.backends.istio.api import ApiRefused, KubeApi
from testbed.backends.istio.draining import NodeDrain
from testbed.backends.istio.objects import LabObjects
from testbed.errors import LabError
from testbed.lab.lab import Lab
from testbed.waiting import NotYet, wait_until
from testbed.workflows.cluster import cluster_objects
from testbed.workflows.istio import AVAILABLE_LIMIT, name_namespaces
from testbed.workflows.kubernetes import api_of, start_node

DRAIN_LIMIT = 300.0
"""Seconds for the pods of a node to have left it."""


def upgrade_node(lab: Lab, node: str, cancel: threading.Event) -> None:
    """Drain the node, start it with the inventory's k3s, and let pods on it again.

    What was drained has to be available elsewhere before k3s is stopped.  Pods that no other node may run stay, and
    go on while k3s restarts.  A drain that is called off leaves the node cordoned: the next try begins with that.
    """
    wait(lab, f"{node} is drained", lambda api: _drained(api, node), DRAIN_LIMIT, cancel)
    _available(lab, f"what {node} had is available elsewhere", cancel)
    start_node(lab, node, cancel)
    with closing(api_of(lab)) as api:
        NodeDrain(api, node).uncordon()
    _available(lab, f"all pods are available with {node} upgraded", cancel)
    name_namespaces(lab)


def _drained(api: KubeApi, node: str) -> None:
    drain = NodeDrain(api, node)
    drain.cordon()
    drain.evict()


def _available(lab: Lab, name: str, cancel: threading.Event) -> None:
    manifests = cluster_objects(lab.inventory)
    wait(lab, name, lambda api: LabObjects(api, lab.id).available(manifests), AVAILABLE_LIMIT, cancel)


def wait(lab: Lab, name: str, probe: Callable[[KubeApi], None], limit: float, cancel: threading.Event) -> None:
    """Wait for what the API says; one that does not answer may do so later."""

    def look() -> None:
        try:
            with closing(api_of(lab)) as api:
                probe(api)
        except LabError as e:
            raise NotYet(str(e)) from None
        except ApiRefused as e:
            if e.code < 500:
                raise
            raise NotYet(str(e)) from None

    wait_until(name, look, limit=limit, interval=2, cancel=cancel, next_step="see: testbed status")
