"""Pods that are not at home, in a plan."""

from __future__ import annotations

from collections.abc import Collection

from testbed.plan.lab import ObservedLab
from testbed.plan.steps import SendHome, Stage, Step


def home_step(observed: ObservedLab, before: Collection[str]) -> Step | None:
    """What brings them home; none where the plan puts the workloads into the cluster, which ends with all at home.

    ``before``: names of the plan's steps so far.
    """
    if not observed.away or "pods" in before:
        return None
    pods = ", ".join(f"{pod} to {node}" for pod, node in sorted(observed.away.items()))
    return Step(
        "home",
        SendHome(),
        f"send pods home, one after the other: {pods}",
        "nothing to undo",
        "the API has each on its own node, available",
        Stage.CLUSTER,
        frozenset(before),
    )
