"""Which way a cluster may go from one release to another."""

from __future__ import annotations

import re

_VERSION = re.compile(r"^v?(\d+)\.(\d+)\.(\d+)(?:\+k3s(\d+))?$")


def k3s_refusal(now: str, wanted: str) -> str:
    """Why k3s can't be taken from one version to the other in place; empty when it can.

    A Kubernetes API can't skip minor versions, and none goes back: what etcd has was written by the newer one
    (Kubernetes' version skew policy; k3s's documentation of upgrades).
    """
    before, after = _parts(now), _parts(wanted)
    if after < before:
        return f"k3s can't go back from {now} to {wanted}"
    if after[:1] != before[:1] or after[1] - before[1] > 1:
        return f"k3s can't go from {now} to {wanted} at once: an upgrade takes one minor version at a time"
    return ""


def _parts(version: str) -> tuple[int, ...]:
    found = _VERSION.match(version)
    if found is None:
        raise ValueError(f"{version!r} is no version of k3s")
    return tuple(int(part or 0) for part in found.groups())
