"""From what is to what shall be, and from what is to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from testbed.plan.cluster import cluster_steps
from testbed.plan.lab import ObservedLab, ObservedMachine, WantedLab, WantedMachine
from testbed.plan.steps import (
    Action,
    ApplyMesh,
    AskEdges,
    AwaitClone,
    AwaitMachine,
    BuildImage,
    BuildShared,
    CheckSnapshot,
    CloneMachine,
    CreateMachine,
    DefineNetwork,
    DeleteFiles,
    DeployWorkloads,
    Forward,
    MakeTemplate,
    Plan,
    RemoveMachine,
    RemoveNetwork,
    RestoreMachine,
    ResumeMachines,
    SaveLab,
    Stage,
    StartHypervisor,
    StartMachine,
    Step,
    StopForward,
    StopHypervisor,
    ThawMachine,
)


class _Steps:
    """Collects steps; a step is only asked to wait for steps that are in the plan."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}

    def add(
        self,
        name: str,
        action: Action,
        stage: Stage,
        needs: tuple[str, ...],
        does: str,
        undone_by: str,
        done_when: str,
    ) -> None:
        self.take(Step(name, action, does, undone_by, done_when, stage, frozenset(needs)))

    def take(self, step: Step) -> None:
        present = frozenset(n for n in step.needs if n in self._steps)
        self._steps[step.name] = replace(step, needs=present)

    def named(self, *prefixes: str) -> tuple[str, ...]:
        """The steps so far whose name begins with one of ``prefixes``."""
        return tuple(n for n in self._steps if n.startswith(prefixes))

    def plan(self) -> Plan:
        return Plan(tuple(self._steps.values()))


def plan_up(wanted: WantedLab, observed: ObservedLab) -> Plan:
    """The steps from ``observed`` to ``wanted``; empty when nothing differs."""
    steps = _Steps()
    if wanted.private_hypervisor and not observed.hypervisor:
        steps.add(
            "hypervisor",
            StartHypervisor(),
            Stage.HOST,
            (),
            "start a libvirt daemon in namespaces of the lab's own",
            "down",
            "the daemon answers on its socket",
        )
    restore = _restores(wanted, observed)
    if restore:
        steps.add(
            "snapshot",
            CheckSnapshot(),
            Stage.BOOT,
            (),
            "check every byte of the snapshot and take the lab's keys from it",
            "down",
            "the files are those that were saved",
        )
    _remove_unwanted(steps, wanted, observed, restore=restore)
    if not restore:
        _build(steps, wanted, observed)
    _networks(steps, wanted, observed)
    if restore:
        _restore(steps, wanted)
    else:
        _templates(steps, wanted, observed)
        cloned = {*observed.templates, *observed.templates_to_make}
        for node, machine in wanted.machines.items():
            _machine(steps, node, machine, observed.machines.get(node), cloned=node in cloned)
    if not restore:  # a cluster comes with its machines
        renewed = {n for n, m in wanted.machines.items() if _is_new(m, observed.machines.get(n))}
        for step in cluster_steps(wanted, observed, frozenset(renewed)):
            steps.take(step)
    _mesh(steps, wanted, observed, restore=restore)
    return steps.plan()


def plan_restore(wanted: WantedLab, observed: ObservedLab) -> Plan:
    """The steps from ``observed`` to the snapshot that is at hand, whatever state the machines are in."""
    unknown = {node: replace(machine, spec="") for node, machine in observed.machines.items()}
    return plan_up(wanted, replace(observed, snapshot=True, machines=unknown, mesh_in_force=False))


def plan_scale(wanted: WantedLab, workloads: Mapping[str, str], *, fewer: bool) -> Plan:
    """The steps of a lab that is all there to other numbers of instances; ``workloads``: node -> what it has now.

    An instance is in force before others are told of it; one that goes is forgotten by others before it ends.
    """
    machines = {
        node: ObservedMachine(machine.spec, running=True, answers=True, workloads=workloads[node])
        for node, machine in wanted.machines.items()
    }
    networks = {role: (spec, True) for role, spec in wanted.networks.items()}
    there = ObservedLab(
        hypervisor=True, image=True, shared=True, networks=networks, machines=machines, forwards=wanted.forwards
    )
    plan = plan_up(wanted, there)
    if not fewer:
        return plan
    needs = {"mesh": frozenset[str](), "workloads": frozenset({"mesh"})}
    steps = [replace(step, needs=needs.get(step.name, step.needs)) for step in plan]
    return Plan(tuple(sorted(steps, key=lambda step: step.name == "workloads")))


def plan_save(where: str) -> Plan:
    """The one step that saves a lab; ``where`` says in words where it goes."""
    steps = _Steps()
    steps.add(
        "save",
        SaveLab(),
        Stage.KEEP,
        (),
        f"save the lab's RAM and disks {where}",
        "snapshot delete, or cache prune",
        "the snapshot's folder has a manifest",
    )
    return steps.plan()


def _restores(wanted: WantedLab, observed: ObservedLab) -> bool:
    """A snapshot is of a whole lab: it is of use when no machine can stay."""
    return observed.snapshot and all(_is_new(m, observed.machines.get(n)) for n, m in wanted.machines.items())


def _remove_unwanted(steps: _Steps, wanted: WantedLab, observed: ObservedLab, *, restore: bool) -> None:
    for gateway, port in observed.forwards.items():
        if wanted.forwards.get(gateway) not in (port, 0):
            _stop_forward(steps, gateway)
    for node, seen in observed.machines.items():
        machine = wanted.machines.get(node)
        if machine is None or (machine.spec != seen.spec and not restore):
            why = "no longer in the inventory" if machine is None else "made from something else"
            _remove_machine(steps, node, f"remove the machine: {why}")
    for role, (spec, _) in observed.networks.items():
        if wanted.networks.get(role) != spec:
            _remove_network(steps, role)


def _build(steps: _Steps, wanted: WantedLab, observed: ObservedLab) -> None:
    create = [n for n, m in wanted.machines.items() if _is_new(m, observed.machines.get(n))]
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


def _templates(steps: _Steps, wanted: WantedLab, observed: ObservedLab) -> None:
    new = {n for n, m in wanted.machines.items() if _is_new(m, observed.machines.get(n))}
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


def _networks(steps: _Steps, wanted: WantedLab, observed: ObservedLab) -> None:
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


def _is_new(wanted: WantedMachine, seen: ObservedMachine | None) -> bool:
    return seen is None or seen.spec != wanted.spec


def _machine(
    steps: _Steps, node: str, wanted: WantedMachine, seen: ObservedMachine | None, *, cloned: bool
) -> None:
    new = _is_new(wanted, seen)
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


def _clone(steps: _Steps, node: str) -> None:
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


def _restore(steps: _Steps, wanted: WantedLab) -> None:
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


def _mesh(steps: _Steps, wanted: WantedLab, observed: ObservedLab, *, restore: bool) -> None:
    deploy = []
    for node, machine in wanted.machines.items():
        if restore:
            break  # its workloads came with it
        seen = observed.machines.get(node)
        if _is_new(machine, seen) or (seen is not None and seen.workloads != machine.workloads):
            deploy.append(node)
    if deploy:
        steps.add(
            "workloads",
            DeployWorkloads(tuple(deploy)),
            Stage.MESH,
            (*steps.named("boot:", "cluster:"), "control-plane", "pods"),
            f"set up the workloads of {len(deploy)} nodes",
            "down",
            "each node's tools report this digest of its workloads",
        )
    if steps.named("boot:", "thaw:", "workloads", "control-plane", "pods") or not observed.mesh_in_force:
        pushed = (
            "compile the resources, push them" if wanted.cluster is None else "apply the resources to the cluster"
        )
        steps.add(
            "mesh",
            ApplyMesh(),
            Stage.MESH,
            ("workloads", "control-plane", "pods", *steps.named("boot:", "thaw:")),
            f"{pushed}, wait until they are in force",
            "apply",
            "every proxy answers with the revision that it shall have",
        )
    for gateway, port in wanted.forwards.items():
        if gateway not in observed.forwards or steps.named(f"stop-forward:{gateway}"):
            steps.add(
                f"forward:{gateway}",
                Forward(gateway, port),
                Stage.MESH,
                ("hypervisor", "mesh", f"stop-forward:{gateway}"),
                "forward its first port to a loopback port",
                "down",
                "a forwarder of this lab listens",
            )
    if restore:
        steps.add(
            "edges",
            AskEdges(),
            Stage.VERIFY,
            ("mesh", *steps.named("forward:")),
            "send one request along each edge of the mesh",
            "nothing to undo",
            "each was answered by the service that it was sent to",
        )


def plan_down(observed: ObservedLab) -> Plan:
    """The steps from ``observed`` to nothing.  With a daemon of the lab's own, ending that ends its machines."""
    steps = _Steps()
    for gateway in observed.forwards:
        _stop_forward(steps, gateway)
    for node in observed.machines:
        _remove_machine(steps, node, "remove the machine")
    for role in observed.networks:
        _remove_network(steps, role)
    if observed.hypervisor:
        steps.add(
            "stop-hypervisor",
            StopHypervisor(),
            Stage.REMOVE,
            steps.named("remove:", "remove-network:", "stop-forward:"),
            "end the lab's own libvirt daemon",
            "up",
            "no process carries this lab's mark",
        )
    steps.add(
        "files",
        DeleteFiles(),
        Stage.REMOVE,
        steps.named("remove:", "remove-network:", "stop-forward:", "stop-hypervisor"),
        "delete the lab's disks, consoles and keys",
        "up",
        "the lab's directory is gone",
    )
    return steps.plan()


def _stop_forward(steps: _Steps, gateway: str) -> None:
    steps.add(
        f"stop-forward:{gateway}",
        StopForward(gateway),
        Stage.REMOVE,
        (),
        "end its forwarder",
        "up",
        "no forwarder of this lab listens for it",
    )


def _remove_machine(steps: _Steps, node: str, does: str) -> None:
    steps.add(
        f"remove:{node}",
        RemoveMachine(node),
        Stage.REMOVE,
        ("hypervisor", "snapshot"),
        does,
        "up",
        "libvirt has no such domain, its disks are gone",
    )


def _remove_network(steps: _Steps, role: str) -> None:
    steps.add(
        f"remove-network:{role}",
        RemoveNetwork(role),
        Stage.REMOVE,
        ("hypervisor", *steps.named("remove:")),
        f"remove the {role} network",
        "up",
        "libvirt has no such network",
    )
