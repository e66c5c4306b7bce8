"""The two values that a plan is made from: what shall be, and what is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class WantedMachine:
    """``spec`` is the content hash of all that the machine is made from; ``workloads`` of what runs on it."""

    spec: str
    workloads: str


@dataclass(frozen=True)
class WantedCluster:
    """The cluster of the istio backend."""

    servers: tuple[str, ...]
    """Nodes with the control plane; the first one starts the cluster."""
    agents: tuple[str, ...]
    nodes: Mapping[str, str]
    """Node -> content hash of what the cluster has on it."""
    control_plane: str
    """Content hash of Istio's version, mode and settings."""
    pods: str = ""
    """Content hash of the services and workloads in it."""
    revision: str = ""
    """What Istio's control plane of that version is called in the cluster, where others may be beside it."""
    k3s: str = ""
    """Its version."""
    brought: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Node -> the releases (``PRODUCT/VERSION``) that its machine was not made with, and is to have on its disk."""


@dataclass(frozen=True)
class WantedLab:
    """What the inventory, the recipe and the tool's version come to."""

    id: str
    private_hypervisor: bool
    """Whether the lab has a libvirt daemon of its own (``auto`` as root)."""
    networks: Mapping[str, str]
    """Role -> spec."""
    machines: Mapping[str, WantedMachine]
    forwards: Mapping[str, int]
    """Gateway -> loopback port, 0 for any."""
    cluster: WantedCluster | None = None


@dataclass(frozen=True)
class ObservedMachine:
    """A machine as libvirt and its own tools tell."""

    spec: str
    running: bool
    answers: bool = False
    """Whether it answered on SSH when it was looked at."""
    workloads: str | None = None
    """The digest of what its tools took up last."""
    cluster: str | None = None
    """The content hash of what the cluster has on it, once it is Ready there."""
    k3s: str = ""
    """The version with which it is in the cluster; empty when it is not."""
    brought: frozenset[str] = frozenset()
    """The releases that were brought to its disk."""
    paused: bool = False
    """Whether its processors stand still: by a fault, or by QEMU when the host's disk is full."""


@dataclass(frozen=True)
class ObservedLab:
    """What is there now."""

    hypervisor: bool = False
    image: bool = False
    shared: bool = False
    networks: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    """Role -> (spec, active)."""
    machines: Mapping[str, ObservedMachine] = field(default_factory=dict)
    forwards: Mapping[str, int] = field(default_factory=dict)
    snapshot: bool = False
    """Whether a snapshot is at hand that all wanted machines can be restored from."""
    templates: frozenset[str] = frozenset()
    """Nodes that the cache has a template for: a machine's memory that they can start from."""
    templates_to_make: Mapping[str, str] = field(default_factory=dict)
    """Node -> the one of its kind for which a template is made first, where several of a kind have none yet."""
    control_plane: str | None = None
    """The content hash of Istio's installation, once it is available."""
    revisions: frozenset[str] = frozenset()
    """Istio's control planes in the cluster."""
    pods: str | None = None
    """The content hash of the workloads in the cluster, once they are available."""
    away: Mapping[str, str] = field(default_factory=dict)
    """Workload -> its own node, of pods that are on another one while their own takes pods."""
    mesh_in_force: bool = False
    """Whether every proxy answers with what the wanted resources compile to."""
