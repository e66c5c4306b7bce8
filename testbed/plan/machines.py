"""The steps that bring a lab's machines about: built and booted, started from templates, or restored."""

from __future__ import annotations

from testbed.plan.collecting import Steps
from testbed.plan.lab import ObservedLab, ObservedMachine, WantedLab, WantedMachine
from testbed.plan.steps import (
    AwaitClone,
    AwaitMachine,
    BuildImage,
    BuildShared,
    CloneMachine,
    CreateMachine,
    DefineNetwork,
    MakeTemplate,
    RestoreMachine,
    ResumeMachines,
    Stage,
    StartMachine,
    ThawMachine,
)


def add_disks(steps: Steps, wanted: WantedLab, observed: ObservedLab) -> None:
    """What new nodes' disks are made from, as far as the cache lacks it."""
    create = [n for n, m in wanted.machines.items() if is_new(m, observed.machines.get(n))]
    if create and not observed.image:
        steps.add(
            "image",
            BuildImage(),
            Stage.IMAGE,
            (),
            "build the disk that nodes start from",
            "cache prune",
            "the cache has an image of the recipe's key",
        )
    if create and not observed.shared:
        steps.add(
            "shared-disk",
            BuildShared(),
            Stage.IMAGE,
            (),
            "build the read-only disk with Envoy and the sample programs",
            "cache prune",
            "the cache has a disk of that content's key",
        )


def add_templates(steps: Steps, wanted: WantedLab, observed: ObservedLab) -> None:
    """The RAM images that new nodes start from, as far as the cache lacks them."""
    new = {n for n, m in wanted.machines.items() if is_new(m, observed.machines.get(n))}
    for kind in dict.fromkeys(kind for node, kind in observed.templates_to_make.items() if node in new):
        steps.add(
            f"template:{kind}",
            MakeTemplate(kind),
            Stage.BOOT,
            ("hypervisor", "image", "shared-disk", *steps.named("template:")),
            "boot a machine like it and save its memory to the cache, for new nodes to start from",
            "cache prune",
            "the template's folder has a manifest",
        )


def add_networks(steps: Steps, wanted: WantedLab, observed: ObservedLab) -> None:
    """The networks that are not as they shall be."""
    for role, spec in wanted.networks.items():
        if observed.networks.get(role) != (spec, True):
            removes = tuple(f"remove:{n}" for n in observed.machines)
            steps.add(
                f"network:{role}",
                DefineNetwork(role),
                Stage.HOST,
                ("hypervisor", f"remove-network:{role}", *removes),
                f"define and start the {role} network",
                "down",
                "libvirt has it, active and with this lab's mark",
            )


def is_new(wanted: WantedMachine, seen: ObservedMachine | None) -> bool:
    """Whether a node has no machine yet, or one that is made from something else."""
    return seen is None or seen.spec != wanted.spec


def add_machine(
    steps: Steps, node: str, wanted: WantedMachine, seen: ObservedMachine | None, *, cloned: bool
) -> None:
    """From what a node has to a machine that answers."""
    new = is_new(wanted, seen)
    if new and cloned:
        _clone(steps, node)
        return
    if new:
        steps.add(
            f"create:{node}",
            CreateMachine(node),
            Stage.BOOT,
            ("hypervisor", "image", "shared-disk", f"remove:{node}"),
            "make its disks and define it",
            "down",
            "libvirt has the domain, with this lab's mark and this spec",
        )
    if new or (seen is not None and not seen.running):
        steps.add(
            f"start:{node}",
            StartMachine(node),
            Stage.BOOT,
            ("hypervisor", f"create:{node}", *steps.named("network:")),
            "power it on",
            "stop",
            "libvirt says that it runs",
        )
    if new or (seen is not None and not (seen.running and seen.answers)):
        steps.add(
            f"boot:{node}",
            AwaitMachine(node),
            Stage.BOOT,
            (f"start:{node}",),
            "wait until it answers on SSH",
            "nothing to undo",
            "it answers with the host key that it was built with",
        )


def _clone(steps: Steps, node: str) -> None:
    steps.add(
        f"clone:{node}",
        CloneMachine(node),
        Stage.BOOT,
        ("hypervisor", f"remove:{node}", *steps.named("network:", "template:")),
        "start it from a template's memory, with cards and disks of its own",
        "down",
        "libvirt says that it runs",
    )
    steps.add(
        f"boot:{node}",
        AwaitClone(node),
        Stage.BOOT,
        (f"clone:{node}",),
        "wait until it answers on SSH as itself, and set its clock",
        "nothing to undo",
        "the domain carries the spec that it shall have",
    )


def add_restore(steps: Steps, wanted: WantedLab) -> None:
    """All machines out of a snapshot at once."""
    for node in wanted.machines:
        steps.add(
            f"restore:{node}",
            RestoreMachine(node),
            Stage.BOOT,
            ("hypervisor", "snapshot", *steps.named("network:")),
            "load its memory, on a fresh layer over the snapshot's disk",
            "down",
            "libvirt has the domain, paused",
        )
    steps.add(
        "resume",
        ResumeMachines(),
        Stage.BOOT,
        steps.named("restore:"),
        "let all machines go on at once",
        "down",
        "libvirt says that they run",
    )
    for node in wanted.machines:
        steps.add(
            f"thaw:{node}",
            ThawMachine(node),
            Stage.BOOT,
            ("resume",),
            "set its clock, renew its random numbers, close its old connections, let its services go on",
            "down",
            "the domain carries the spec that it shall have",
        )
