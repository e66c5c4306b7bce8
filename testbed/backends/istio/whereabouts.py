"""Which node to speak to for a workload, without asking the API each time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from testbed.backends.istio.places import Place, Places, named
from testbed.errors import TestbedError
from testbed.guests import NodeConnection
from testbed.model.topology import Topology

KEPT = 5.0
"""Seconds for which places are not asked for again.  A list of pods costs an emulated lab a tenth of a second, and
a look at a lab asks for every workload; a pod is elsewhere no sooner than a minute after its node was lost."""


class Whereabouts:
    """Workload -> connection to where it is.  Safe to use from several threads."""

    def __init__(
        self,
        topology: Topology,
        connections: Mapping[str, NodeConnection],
        places: Places,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._homes = {w.name: w.node for w in topology.workloads}
        self._connections = connections
        self._places = places
        self._clock = clock
        self._known: Mapping[str, Place] = {}
        self._until = clock()
        self._lock = threading.Lock()
        self._named: dict[str, str] = {}
        """Workload -> address of the pod whose namespace was given its name."""
        self._unnamed: set[str] = set()
        self._naming = {w: threading.Lock() for w in self._homes}

    def connection(self, workload: str) -> NodeConnection:
        """To the node where it is: of a pod the one that it is on, else its own.  Raises :class:`KeyError`.

        The namespace of a pod that is met for the first time is given the workload's name, by which all else looks
        for it.  Nothing that goes wrong on the way is raised: what is done over the connection will meet it.
        """
        home = self._homes[workload]
        place = self._place(workload)
        if place is None or not place.is_pod:
            return self._connections[home]
        connection = self._connections[place.node]
        with self._naming[workload]:
            if workload in self._unnamed:
                self._unnamed.discard(workload)  # tried again after the next look, should it fail
                with suppress(TestbedError):
                    connection.run(named(place, workload))
                    self._named[workload] = place.address
        return connection

    def _place(self, workload: str) -> Place | None:
        """As it was known a moment ago, or longer, if the API does not answer."""
        with self._lock:
            known = self._known.get(workload)
            if (known is None or known.is_pod) and self._clock() >= self._until:
                with suppress(TestbedError):
                    self._known = self._places.proxies()
                    pods = {w: p.address for w, p in self._known.items() if p.is_pod}
                    self._unnamed = {w for w, address in pods.items() if self._named.get(w) != address}
                self._until = self._clock() + KEPT
            return self._known.get(workload)
