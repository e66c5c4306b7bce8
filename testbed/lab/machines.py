"""A lab's machines: what each is made from, and the steps that make, start, await and remove them."""

from __future__ import annotations

import os
import threading
from dataclasses import asdict
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from testbed.artifacts import releases_of
from testbed.errors import LabError
from testbed.guests.ssh import NotReachable
from testbed.hypervisor.machines import Power, create_overlay
from testbed.hypervisor.xml import Boot, Cpu, Machine, Nic, domain_uuid, domain_xml, network_name, network_xml
from testbed.images import NodeSeed, kernel_arguments, nocloud_files, write_seed
from testbed.images.node import CPU_FEATURES, CPU_MODEL
from testbed.images.seed import HOST_MAC, MANAGEMENT_MAC, MESH_MAC, mac_address
from testbed.lab.console import console_tail
from testbed.lab.disks import Disks
from testbed.lab.lab import Lab
from testbed.model.inventory import Node
from testbed.model.proxy import content_hash
from testbed.waiting import NotYet, wait_until

MANAGEMENT, MESH = "management", "mesh"
BOOT_LIMIT = 240.0
"""Seconds for a machine to answer on SSH; emulated ones on a busy host take a fifth of it."""

_MAC_PREFIX = {MANAGEMENT: MANAGEMENT_MAC, MESH: MESH_MAC}


class Machines:
    """The machines of one lab as its inventory wants them."""

    def __init__(self, lab: Lab, *, kvm: bool) -> None:
        self.lab = lab
        self.kvm = kvm
        self._nodes = {n.name: n for n in lab.inventory.nodes}

    @cached_property
    def disks(self) -> Disks:
        """The disks that its nodes have in common."""
        return Disks.of(self.lab.made_of)

    def networks(self) -> dict[str, str]:
        """Role -> spec."""
        return {role: content_hash(self._network_xml(role, "")) for role in (MANAGEMENT, MESH)}

    def makings(self) -> str:
        """Content hash of what all machines and networks are made from, but for the lab's keys, wherever that lies
        on this host."""
        parts = (part for node in self._nodes.values() for part in self._makings(node))
        state, cache = str(self.lab.directories.state), str(self.disks.cache)
        return content_hash(*(part.replace(state, "state").replace(cache, "cache") for part in parts))

    def specs(self) -> dict[str, str]:
        """Node -> content hash of all that its machine is made from."""
        return {name: self._spec(node) for name, node in self._nodes.items()}

    def define_network(self, role: str) -> None:
        """Define and start one of the lab's networks."""
        xml = self._network_xml(role, self.networks()[role])
        self.lab.hypervisor().define_network(role, xml)

    def create(self, node: str) -> None:
        """Make the node's disks, and define it.  Whatever an interrupted earlier try left is written over."""
        self._seed(self._nodes[node])  # makes the keys, which are part of the spec
        machine = self._machine(self._nodes[node], self._spec(self._nodes[node]))
        for file in self.lab.directories.volumes.glob(f"{node}.*"):
            file.unlink()
        image = self.disks.node_image
        create_overlay(machine.disk, image.disk, image.format, self.disk_size(node))
        machine.console.unlink(missing_ok=True)
        self.define(node, machine.spec)

    def define(self, node: str, spec: str) -> None:
        """Define the node over disks that somebody else puts there, with ``spec`` as its mark; writes its seed."""
        self.lay_seed(node)
        self.lab.hypervisor().define(self._machine(self._nodes[node], spec))

    def lay_seed(self, node: str) -> None:
        """Write the node's seed disk."""
        seed = self._seed(self._nodes[node])
        image, recipe = self.disks.node_image, self.disks.recipe
        files = {} if image.direct else nocloud_files(seed, recipe.recipe, recipe.files)
        write_seed(seed, self.definition(node).seed, files)

    def definition(self, node: str) -> Machine:
        """What the node's machine is."""
        return self._machine(self._nodes[node], self._spec(self._nodes[node]))

    def disk_size(self, node: str) -> int:
        """Of the node's disk as its machine sees it, in bytes."""
        return max(self._nodes[node].disk, self.disks.node_image.size)

    def start(self, node: str) -> None:
        """Power it on."""
        self.lab.connection(node).close()  # one that was kept leads to a machine that is no more
        try:
            self.lab.hypervisor().start(node)
        except LabError as e:
            if tail := console_tail(self._console(node)):
                e.next_step = f"its console ends with: {tail}"
            raise

    def wait(self, node: str, cancel: threading.Event, limit: float = BOOT_LIMIT) -> None:
        """Wait ``limit`` seconds until it answers on SSH; one that powers off meanwhile is an error at once."""
        connection = self.lab.connection(node)
        hypervisor = self.lab.hypervisor()

        def answers() -> None:
            try:
                connection.connect(limit=15)
            except NotReachable as e:
                machine = hypervisor.machines().get(node)
                if machine is None or machine.power not in (Power.RUNNING, Power.PAUSED):
                    state = machine.power.value if machine else "gone"
                    raise LabError(node, "boot", f"the machine is {state}", self._advice(node)) from None
                raise NotYet(e.cause) from None

        try:
            wait_until(f"{node} answers on SSH", answers, limit=limit, interval=0.3, cancel=cancel)
        except TimeoutError as e:
            raise LabError(node, "boot", str(e), self._advice(node)) from None
        if not self.disks.node_image.direct:
            self._wait_for_files(node, cancel)

    def _wait_for_files(self, node: str, cancel: threading.Event) -> None:
        """Somebody else's image answers before cloud-init has laid our files; its own verdict says other things."""
        connection = self.lab.connection(node)

        def there() -> None:
            look = "test -e /etc/testbed/node.json && test -e /opt/testbed/node || cloud-init status"
            said = connection.run(["sh", "-c", look], check=False).stdout.decode(errors="replace").strip()
            if said:
                raise NotYet(f"cloud-init: {said}")

        wait_until(
            f"{node} has our files from cloud-init", there, limit=BOOT_LIMIT, interval=1, cancel=cancel,
            next_step=self._advice(node),
        )  # fmt: skip

    def remove(self, node: str) -> None:
        """Cut the power, undefine, delete its disks."""
        self.lab.hypervisor().remove(node)
        for file in self.lab.directories.volumes.glob(f"{node}.*"):
            file.unlink(missing_ok=True)

    def _advice(self, node: str) -> str:
        tail = console_tail(self._console(node))
        return f"see: testbed console {node}" + (f"; it ends with: {tail}" if tail else "; it is empty")

    def _console(self, node: str) -> Path:
        return self.lab.directories.consoles / f"{node}.log"

    def _network_xml(self, role: str, spec: str) -> str:
        networks = self.lab.inventory.networks
        network = networks.management if role == MANAGEMENT else networks.mesh
        mac = mac_address(HOST_MAC, network.network_address + 1)
        return network_xml(self.lab.id, role, network, f"tb{self.lab.tag}{role[:2]}", mac, spec)

    def _address(self, node: Node, role: str) -> IPv4Address:
        inventory = self.lab.inventory
        return inventory.management_address(node.name) if role == MANAGEMENT else inventory.mesh_address(node.name)

    def _nic(self, node: Node, role: str) -> Nic:
        mac = mac_address(_MAC_PREFIX[role], self._address(node, role))
        return Nic(network_name(self.lab.id, role), mac, tap_name(self.lab, role, node.name))

    def _seed(self, node: Node) -> NodeSeed:
        networks = self.lab.inventory.networks
        host_key = self.lab.host_key(node.name)
        return NodeSeed(
            lab=self.lab.id,
            node=node.name,
            machine_id=domain_uuid(self.lab.id, node.name).replace("-", ""),
            host_key=host_key.private,
            host_key_public=host_key.public,
            authorized_keys=(self.lab.client_key.public,),
            management=_interface(self._address(node, MANAGEMENT), networks.management),
            mesh=_interface(self._address(node, MESH), networks.mesh),
            entropy=os.urandom(64),
        )

    def _machine(self, node: Node, spec: str) -> Machine:
        image, volumes = self.disks.node_image, self.lab.directories.volumes
        boot = Boot(image.kernel, image.initrd, kernel_arguments()) if image.kernel and image.initrd else None
        return Machine(
            lab=self.lab.id,
            node=node.name,
            vcpus=node.vcpus,
            memory=node.memory,
            kvm=self.kvm,
            cpu=Cpu(None) if self.kvm else Cpu(CPU_MODEL, CPU_FEATURES),
            boot=boot,
            disk=volumes / f"{node.name}.qcow2",
            seed=volumes / f"{node.name}.seed.iso",
            shared=self.disks.shared,
            console=self._console(node.name),
            nics=(self._nic(node, MANAGEMENT), self._nic(node, MESH)),
            spec=spec,
            releases=asdict(releases_of(self.lab.made_of)) if self.lab.has_cluster else {},
        )

    def _spec(self, node: Node) -> str:
        # keys of the lab make the identity
        definition, image, disk, *networks = self._makings(node)
        return content_hash(definition, image, disk, *self.lab.known_keys(node.name), *networks)

    def _makings(self, node: Node) -> tuple[str, ...]:
        # the definition names image and shared disk by their content's key
        networks = (f"{role}={self.networks()[role]}" for role in (MANAGEMENT, MESH))
        return (domain_xml(self._machine(node, "")), self.disks.node_image.key, str(node.disk), *networks)


def tap_name(lab: Lab, role: str, node: str) -> str:
    """The host's end of a node's network card; at most 15 characters, as Linux has it."""
    return f"t{lab.tag}{role[:2]}{lab.inventory.numbers()[node]}"


def _interface(address: IPv4Address, network: IPv4Network) -> IPv4Interface:
    return IPv4Interface(f"{address}/{network.prefixlen}")
