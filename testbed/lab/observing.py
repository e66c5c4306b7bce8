"""What is there of a lab: read from libvirt, the processes and the nodes themselves, never from a file of ours."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from testbed.errors import LabError
from testbed.guests import NodeConnection
from testbed.host.forward import find_forwards
from testbed.hypervisor.machines import FoundMachine, Power
from testbed.lab.disks import Disks
from testbed.lab.lab import API_FORWARD, Lab
from testbed.model.clusters import api_address
from testbed.plan import ObservedLab, ObservedMachine

ANSWER_LIMIT = 5.0
"""Seconds for a running machine to answer when it is looked at; a machine that boots is not waited for here."""


def observe(lab: Lab, disks: Disks) -> ObservedLab:
    """Look at everything; takes a fraction of a second, or :data:`ANSWER_LIMIT` when a machine doesn't answer."""
    hypervisor = lab.hypervisor_if_up()
    image, shared = disks.has_image, disks.has_shared
    forwards = forwarded(lab)
    if hypervisor is None:
        return ObservedLab(image=image, shared=shared, forwards=forwards)
    networks = {role: (n.spec, n.active) for role, n in hypervisor.networks().items()}
    machines = hypervisor.machines()
    with ThreadPoolExecutor(max_workers=max(1, len(machines))) as pool:
        seen = dict(zip(machines, pool.map(lambda m: _observe(lab, m), machines.values()), strict=True))
    return ObservedLab(
        hypervisor=lab.private,
        image=image,
        shared=shared,
        networks=networks,
        machines=seen,
        forwards=forwards,
    )


def forwarded(lab: Lab) -> dict[str, int]:
    """Gateway, or :data:`API_FORWARD`, -> loopback port.  An address that nothing has now stands for itself."""
    by_address = {str(w.address): w.name for w in lab.topology.workloads}
    if lab.has_cluster:
        by_address[api_address(lab.inventory)] = API_FORWARD
    return {by_address.get(f.address, f.address): f.port for f in find_forwards(lab.directories)}


def _observe(lab: Lab, machine: FoundMachine) -> ObservedMachine:
    running = machine.power is Power.RUNNING
    if not running or machine.node not in {n.name for n in lab.inventory.nodes}:
        return ObservedMachine(machine.spec, running, paused=machine.power is Power.PAUSED)
    connection = lab.connection(machine.node)
    inside = {n.name for n in lab.inventory.nodes if n.cluster is not None}  # pods come and go, and with them names
    names = [w.name for w in lab.topology.workloads if w.node == machine.node and w.node not in inside]
    try:
        connection.connect(limit=ANSWER_LIMIT)
        workloads = taken_up(connection, names)
    except LabError:
        return ObservedMachine(machine.spec, running)
    return ObservedMachine(machine.spec, running, answers=True, workloads=workloads)


_LOOK = 'read digest </etc/testbed/workloads.applied; echo "$digest" /run/netns/*'
"""Nothing but a shell: each further process, a Python before all, costs an emulated machine a tenth of a second."""


def taken_up(connection: NodeConnection, workloads: Collection[str]) -> str | None:
    """The digest of the workloads that the node has set up, with a namespace for each; None when it has not."""
    words = connection.run(["sh", "-c", _LOOK], limit=20, check=False).stdout.decode().split()
    if not words or not {f"/run/netns/{name}" for name in workloads} <= set(words):
        return None
    return words[0]


def observe_remains(lab: Lab) -> ObservedLab:
    """What has to be removed: like :func:`observe`, but asks no node and needs no recipe."""
    processes = lab.private and lab.daemon.find() is not None
    hypervisor = lab.hypervisor_if_up()
    if hypervisor is None:
        return ObservedLab(hypervisor=processes, forwards=forwarded(lab))
    return ObservedLab(
        hypervisor=processes,
        networks={role: (n.spec, n.active) for role, n in hypervisor.networks().items()},
        machines={
            node: ObservedMachine(m.spec, m.power is Power.RUNNING) for node, m in hypervisor.machines().items()
        },
        forwards=forwarded(lab),
    )
