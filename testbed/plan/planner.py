"""From what is to what shall be, and from what is to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from testbed.plan.cluster import cluster_steps, retire_steps
from testbed.plan.collecting import Steps
from testbed.plan.homes import home_step
from testbed.plan.lab import ObservedLab, ObservedMachine, WantedLab
from testbed.plan.machines import add_disks, add_machine, add_networks, add_restore, add_templates, is_new
from testbed.plan.steps import (
    ApplyMesh,
    AskEdges,
    CheckSnapshot,
    DeleteFiles,
    DeployWorkloads,
    Forward,
    Plan,
    RemoveMachine,
    RemoveNetwork,
    SaveLab,
    Stage,
    StartHypervisor,
    StopForward,
    StopHypervisor,
)


def plan_up(wanted: WantedLab, observed: ObservedLab) -> Plan:
    """The steps from ``observed`` to ``wanted``; empty when nothing differs."""
    steps = Steps()
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
        add_disks(steps, wanted, observed)
    add_networks(steps, wanted, observed)
    if restore:
        add_restore(steps, wanted)
    else:
        add_templates(steps, wanted, observed)
        cloned = {*observed.templates, *observed.templates_to_make}
        for node, machine in wanted.machines.items():
            add_machine(steps, node, machine, observed.machines.get(node), cloned=node in cloned)
    renewed = frozenset(n for n, m in wanted.machines.items() if is_new(m, observed.machines.get(n)))
    if not restore:  # a cluster comes with its machines
        for step in cluster_steps(wanted, observed, renewed):
            steps.take(step)
        if home := home_step(observed, steps.named("")):
            steps.take(home)
    _mesh(steps, wanted, observed, restore=restore)
    for step in retire_steps(wanted, observed, renewed):
        steps.take(step)
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
    steps = Steps()
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
    return observed.snapshot and all(is_new(m, observed.machines.get(n)) for n, m in wanted.machines.items())


def _remove_unwanted(steps: Steps, wanted: WantedLab, observed: ObservedLab, *, restore: bool) -> None:
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


def _mesh(steps: Steps, wanted: WantedLab, observed: ObservedLab, *, restore: bool) -> None:
    deploy = []
    for node, machine in wanted.machines.items():
        if restore:
            break  # its workloads came with it
        seen = observed.machines.get(node)
        if is_new(machine, seen) or (seen is not None and seen.workloads != machine.workloads):
            deploy.append(node)
    if deploy:
        steps.add(
            "workloads",
            DeployWorkloads(tuple(deploy)),
            Stage.MESH,
            (*steps.named("boot:", "cluster:", "bring:", "upgrade:"), "control-plane", "pods", "home"),
            f"set up the workloads of {len(deploy)} nodes",
            "down",
            "each node's tools report this digest of its workloads",
        )
    changed = steps.named("boot:", "thaw:", "upgrade:", "workloads", "control-plane", "pods", "home")
    if changed or not observed.mesh_in_force:
        pushed = (
            "compile the resources, push them" if wanted.cluster is None else "apply the resources to the cluster"
        )
        steps.add(
            "mesh",
            ApplyMesh(),
            Stage.MESH,
            ("workloads", "control-plane", "pods", "home", *steps.named("boot:", "thaw:")),
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
    steps = Steps()
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


def _stop_forward(steps: Steps, gateway: str) -> None:
    steps.add(
        f"stop-forward:{gateway}",
        StopForward(gateway),
        Stage.REMOVE,
        (),
        "end its forwarder",
        "up",
        "no forwarder of this lab listens for it",
    )


def _remove_machine(steps: Steps, node: str, does: str) -> None:
    steps.add(
        f"remove:{node}",
        RemoveMachine(node),
        Stage.REMOVE,
        ("hypervisor", "snapshot"),
        does,
        "up",
        "libvirt has no such domain, its disks are gone",
    )


def _remove_network(steps: Steps, role: str) -> None:
    steps.add(
        f"remove-network:{role}",
        RemoveNetwork(role),
        Stage.REMOVE,
        ("hypervisor", *steps.named("remove:")),
        f"remove the {role} network",
        "up",
        "libvirt has no such network",
    )
