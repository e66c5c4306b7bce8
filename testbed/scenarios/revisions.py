"""Every machine's clock before and after a run with faults, and when proxies last took up their configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from testbed.errors import LabError
from testbed.report.record import ClockRecord, Mark
from testbed.scenarios.clocks import GuestClock
from testbed.scenarios.lab import LabUnderTest

TAKEN_UP = "/config_dump?resource=dynamic_listeners&mask=active_state.last_updated"
"""When a proxy last took up each listener: after it started, or when it was given another."""


def clocks_of(lab: LabUnderTest) -> dict[str, GuestClock]:
    """Node -> its clocks; of one that does not answer nothing is known.  Nodes are asked at once."""
    first = {node: names[0] for node, names in lab.by_node(lab.topology.workloads).items()}

    def measure(node: str) -> GuestClock | None:
        try:
            return GuestClock.measure(lab.backend.connection(first[node]))
        except LabError:
            return None

    with ThreadPoolExecutor(max(1, len(first))) as pool:
        found = dict(zip(first, pool.map(measure, first), strict=True))
    return {node: clock for node, clock in found.items() if clock is not None}


def compared(before: Mapping[str, GuestClock], after: Mapping[str, GuestClock]) -> tuple[ClockRecord, ...]:
    """How far each guest's clock was from the host's, before and after."""
    host = GuestClock.of_host().wall
    return tuple(
        ClockRecord(
            node,
            before[node].wall - host if node in before else None,
            after[node].wall - host if node in after else None,
            max(c[node].resolution for c in (before, after) if node in c),
        )
        for node in sorted({*before, *after})
    )


def taken_up(
    lab: LabUnderTest,
    clocks: Mapping[str, GuestClock],
    revisions: Mapping[str, str],
    on_run: Callable[[float], float],
) -> list[Mark]:
    """A mark for each proxy that took up its configuration during the run: it had started anew, or forgotten all.

    ``on_run`` takes a time of the host's monotonic clock to the run's.  Only the last time is known: a proxy that
    starts again forgets the ones before.
    """
    at_node = {w.name: lab.node_of(w.name) for w in lab.topology.workloads if w.has_envoy}
    workloads = [name for name, node in at_node.items() if node in clocks]

    def last(name: str) -> float | None:
        try:
            return max(_times(lab.backend.admin(name, TAKEN_UP)), default=None)
        except LabError:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = zip(workloads, pool.map(last, workloads), strict=True)
        moments = [(on_run(at - clocks[at_node[w]].wall), w) for w, at in found if at is not None]
    return [
        Mark(time, f"{name} took up revision {revisions.get(name, '')[:8]}", kind="revision")
        for time, name in sorted(moments)
        if time > 0
    ]


def _times(dump: bytes) -> Iterator[float]:
    """Seconds since the epoch, by the proxy's own clock."""
    try:
        configs = json.loads(dump).get("configs", [])
    except (ValueError, AttributeError):
        return
    for config in configs:
        said = config.get("active_state", {}).get("last_updated", "")
        if said:
            yield datetime.fromisoformat(said.replace("Z", "+00:00")).timestamp()
