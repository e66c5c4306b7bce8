"""Every peer in turn, by the same clock; and what came of it beside our own figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from peers.host import Host, Watch
from peers.kcli import Kcli
from peers.vagrant import Vagrant
from peers.virt_install import VirtInstall
from testbed.errors import TestbedError
from testbed.images import NodeImage


class Peer(Protocol):
    """Another program that starts machines from a disk.  Whether they answer is looked at from outside, alike."""

    name: str

    def missing(self) -> str:
        """Why it can't be measured here; empty when it can."""

    def prepare(self, host: Host, disk: Path, count: int) -> None:
        """What its user does once, not every time; not counted."""

    def start(self, host: Host, disk: Path, count: int) -> None:
        """What its user does to have so many machines."""

    def remove(self, host: Host, count: int) -> None:
        """Have none, as before."""


ALL: Sequence[Peer] = (VirtInstall(), Vagrant(), Kcli())


@dataclass(frozen=True)
class Measured:
    """What came of one run."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """Peer -> seconds from its command's start until the last machine answered on SSH."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Peer -> why it was not measured."""


def measure_peers(host: Host, image: NodeImage, count: int, peers: Sequence[Peer] = ALL) -> Measured:
    """Let each start ``count`` machines, one peer after another; none is there in the end."""
    skipped = {peer.name: why for peer in peers if (why := peer.missing())}
    seconds: dict[str, float] = {}
    there = [peer for peer in peers if peer.name not in skipped]
    if not there:
        return Measured(seconds, skipped)
    with host.running(image) as disk:
        for peer in there:
            try:
                seconds[peer.name] = _measure(peer, host, disk, count)
            except TestbedError as e:
                skipped[peer.name] = str(e)
                host.clear()
    return Measured(seconds, skipped)


def _measure(peer: Peer, host: Host, disk: Path, count: int) -> float:
    peer.prepare(host, disk, count)
    watch = Watch(host, count)
    try:
        peer.start(host, disk, count)
        return watch.result()
    finally:
        watch.close()
        peer.remove(host, count)


def ratio(peers: Mapping[str, float], ours: float) -> float | None:
    """How many times as long the quickest peer takes; None without any."""
    return min(peers.values()) / ours if peers else None
