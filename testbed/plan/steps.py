"""A plan's steps.  Each says what it does, how it is undone, and how to see that it is already done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter


class Stage(StrEnum):
    """Where the time goes: what ``benchmarks/up.py`` prints."""

    HOST = "host"
    IMAGE = "image"
    BOOT = "boot"
    CLUSTER = "cluster"
    MESH = "mesh"
    VERIFY = "verify"
    KEEP = "keep"
    REMOVE = "remove"


@dataclass(frozen=True)
class StartHypervisor:
    """Start the lab's own libvirt daemon in its namespaces."""


@dataclass(frozen=True)
class BuildImage:
    """Build, or fetch, the disk that nodes start from."""


@dataclass(frozen=True)
class BuildShared:
    """Build the read-only disk with Envoy and the sample programs."""


@dataclass(frozen=True)
class DefineNetwork:
    """Define and start a network."""

    role: str


@dataclass(frozen=True)
class RemoveNetwork:
    """Stop and undefine a network."""

    role: str


@dataclass(frozen=True)
class CreateMachine:
    """Make the overlay and the seed disk, and define the domain."""

    node: str


@dataclass(frozen=True)
class StartMachine:
    """Power the machine on."""

    node: str


@dataclass(frozen=True)
class AwaitMachine:
    """Wait until the machine answers on SSH with its own host key."""

    node: str


@dataclass(frozen=True)
class CloneMachine:
    """Start the machine from a template's memory, on a layer over the template's disk, as itself."""

    node: str


@dataclass(frozen=True)
class AwaitClone:
    """Wait until the clone answers on SSH with its own host key, and set its clock."""

    node: str


@dataclass(frozen=True)
class MakeTemplate:
    """Boot a machine of the node's hardware in a lab of its own, and save its memory and disk."""

    node: str


@dataclass(frozen=True)
class RemoveMachine:
    """Cut the power, undefine, delete the disks."""

    node: str


@dataclass(frozen=True)
class CheckSnapshot:
    """Compare the snapshot with its checksums, and take the lab's keys from it."""


@dataclass(frozen=True)
class RestoreMachine:
    """Start the machine from its RAM file, paused, on a fresh layer over the snapshot's disk."""

    node: str


@dataclass(frozen=True)
class ResumeMachines:
    """Let all machines go on at once."""


@dataclass(frozen=True)
class ThawMachine:
    """Clock, random numbers and connections of a restored machine; then its services go on."""

    node: str


@dataclass(frozen=True)
class InstallNode:
    """Make the machine a node of the cluster and wait until it is Ready."""

    node: str


@dataclass(frozen=True)
class BringReleases:
    """Lay releases on a machine that was made with others, and their images into its store."""

    node: str
    releases: tuple[str, ...]
    """Each as ``PRODUCT/VERSION``."""


@dataclass(frozen=True)
class UpgradeNode:
    """Drain the node, start it with another k3s, let pods on it again."""

    node: str


@dataclass(frozen=True)
class InstallControlPlane:
    """Install Istio in the cluster and wait until it is available."""


@dataclass(frozen=True)
class RetireControlPlanes:
    """Remove Istio's control planes of other revisions once no proxy is connected to them."""


@dataclass(frozen=True)
class DeployPods:
    """Put the services and workloads into the cluster and wait until their pods are available."""


@dataclass(frozen=True)
class SendHome:
    """Send pods home that are on another node than their own."""


@dataclass(frozen=True)
class DeployWorkloads:
    """Tell nodes which workloads they have, and let them set these up."""

    nodes: tuple[str, ...]


@dataclass(frozen=True)
class ApplyMesh:
    """Compile, push, and wait until it is in force."""


@dataclass(frozen=True)
class AskEdges:
    """One request along each edge of the mesh."""


@dataclass(frozen=True)
class SaveLab:
    """Save the whole lab."""


@dataclass(frozen=True)
class Forward:
    """Forward a gateway's first port to a loopback port of the host."""

    gateway: str
    port: int


@dataclass(frozen=True)
class StopForward:
    """End a gateway's forwarder."""

    gateway: str


@dataclass(frozen=True)
class StopHypervisor:
    """End the lab's own daemon and everything in its namespaces."""


@dataclass(frozen=True)
class DeleteFiles:
    """Delete the lab's directory: disks, consoles, keys."""


Action = (
    StartHypervisor
    | BuildImage
    | BuildShared
    | DefineNetwork
    | RemoveNetwork
    | CreateMachine
    | StartMachine
    | AwaitMachine
    | CloneMachine
    | AwaitClone
    | MakeTemplate
    | RemoveMachine
    | CheckSnapshot
    | RestoreMachine
    | ResumeMachines
    | ThawMachine
    | InstallNode
    | BringReleases
    | UpgradeNode
    | InstallControlPlane
    | RetireControlPlanes
    | DeployPods
    | SendHome
    | DeployWorkloads
    | ApplyMesh
    | AskEdges
    | SaveLab
    | Forward
    | StopForward
    | StopHypervisor
    | DeleteFiles
)


@dataclass(frozen=True)
class Step:
    """One thing to do.  ``needs`` names the steps that must have ended before."""

    name: str
    action: Action
    does: str
    undone_by: str
    done_when: str
    stage: Stage
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """Steps in an order that respects their dependencies."""

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        names = [s.name for s in self.steps]
        if len(set(names)) != len(names):
            raise ValueError("two steps of one name")
        for step in self.steps:
            if missing := step.needs - set(names):
                raise ValueError(f"step {step.name} needs unknown {sorted(missing)}")
        try:
            TopologicalSorter({s.name: s.needs for s in self.steps}).prepare()
        except CycleError as e:
            raise ValueError(f"the steps wait for each other: {e.args[1]}") from None

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)
