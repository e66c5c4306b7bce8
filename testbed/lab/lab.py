"""One lab on this host: its inventory, its folders, its hypervisor and the connections to its nodes."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from testbed.artifacts import Releases, with_releases
from testbed.errors import LabError
from testbed.guests.keys import KeyPair, key_pair
from testbed.guests.ssh import SshConnection
from testbed.guests.tool import APPLY
from testbed.host.daemon import PrivateDaemon
from testbed.host.directories import LabDirectories
from testbed.host.namespaces import HostNetwork, LabNetwork, Network
from testbed.hypervisor.machines import Hypervisor
from testbed.model.inventory import Inventory
from testbed.model.reading import instance_name, topology_of
from testbed.model.topology import Topology

SSH_PORT = 22
API_FORWARD = "kubernetes"
"""What the forwarder to the cluster's API is called, among gateways' names."""


class NotUp(LabError):
    """The lab, or the node, that a command needs is not there."""

    def __init__(self, subject: str, action: str, cause: str = "the lab is not up") -> None:
        super().__init__(subject, action, cause, "run: testbed up")


class Lab:
    """A lab that may or may not run.  Making the object touches nothing."""

    def __init__(self, inventory: Inventory, file: str = "") -> None:
        self.inventory = inventory
        self.file = file
        self.id = inventory.id
        self.directories = LabDirectories(inventory.id)
        self.daemon = PrivateDaemon(inventory.id, self.directories)
        self.scale: Mapping[str, int] = {}
        self.began_with: Releases | None = None
        self._hypervisor: Hypervisor | None = None
        self._connections: dict[str, SshConnection] = {}
        self._lock = threading.Lock()
        self._key_lock = threading.Lock()

    @property
    def uri(self) -> str:
        """The inventory's libvirt URI; ``auto`` is a daemon of the lab's own for root, else the system's."""
        uri = self.inventory.hosts[0].uri
        return "qemu:///system" if uri == "auto" and os.geteuid() != 0 else uri

    @property
    def private(self) -> bool:
        """Whether it has a libvirt daemon of its own."""
        return self.uri == "auto"

    @cached_property
    def network(self) -> Network:
        """How to reach its addresses."""
        return LabNetwork(self.directories) if self.private else HostNetwork()

    @cached_property
    def topology(self) -> Topology:
        """The mesh that the inventory describes, with as many instances as :attr:`scale` says."""
        return topology_of(self.inventory, self.scale)

    def hold_to(self, scale: Mapping[str, int]) -> None:
        """Have as many instances as ``scale`` says (workload -> how many), of others what the inventory says."""
        declared = {instance_name(w, 0): w.replicas for w in self.inventory.workloads}
        self.scale = {name: n for name, n in scale.items() if declared.get(name, n) != n and name in declared}
        self.__dict__.pop("topology", None)

    @property
    def made_of(self) -> Inventory:
        """The inventory with the releases that the machines were made with.

        An upgrade brings newer ones to them, and makes no machine anew.
        """
        return with_releases(self.inventory, self.began_with) if self.began_with else self.inventory

    @property
    def has_cluster(self) -> bool:
        """Whether its mesh is Istio, in a cluster."""
        return self.inventory.mesh.backend == "istio"

    @property
    def tag(self) -> str:
        """Six hexadecimal digits that keep names of taps and bridges apart on a host with several labs."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:6]

    def hypervisor(self) -> Hypervisor:
        """The libvirt connection.  Raises :class:`NotUp` when the lab's own daemon doesn't run."""
        with self._lock:
            if self._hypervisor is None:
                if self.private and not self._daemon_runs():
                    raise NotUp(self.id, "connect to its libvirt daemon")
                self._hypervisor = Hypervisor(self.daemon.uri if self.private else self.uri, self.id)
            return self._hypervisor

    def hypervisor_if_up(self) -> Hypervisor | None:
        """The libvirt connection, or None when the lab's own daemon doesn't run."""
        try:
            return self.hypervisor()
        except NotUp:
            return None

    @property
    def is_stopped(self) -> bool:
        """Whether its own daemon is down and knows machines: after `stop`, or a reboot of the host."""
        definitions = (self.directories.libvirt / "etc" / "qemu").glob("*.xml")
        return self.private and any(definitions) and not self._daemon_runs()

    def _daemon_runs(self) -> bool:
        found = self.daemon.find()
        return found is not None and found.libvirtd is not None

    def connection(self, node: str) -> SshConnection:
        """The kept SSH connection to a node; made on first use, not connected yet."""
        address = str(self.inventory.management_address(node))
        with self._lock:
            if node not in self._connections:
                self._connections[node] = SshConnection(
                    node,
                    lambda limit: self.network.dial(address, SSH_PORT, limit),
                    self.client_key,
                    self.host_key(node).public,
                )
            return self._connections[node]

    def meet_ahead(self, nodes: Iterable[str]) -> None:
        """Begin to connect to nodes whose proxies will be asked and told something, and to start what does that.

        Whoever needs one waits for the rest of it, or meets the error.
        """

        def meet(node: str) -> None:
            with suppress(LabError):
                self.connection(node).start_ahead(APPLY)

        for node in nodes:
            if len(self.known_keys(node)) < 2:  # it has never been up, and no keys are to be made for it here
                continue
            threading.Thread(target=meet, args=(node,), daemon=True).start()

    @property
    def client_key_file(self) -> Path:
        """Where the private key lies that every node lets in."""
        return self.directories.pki / "client_ed25519"

    @property
    def client_key(self) -> KeyPair:
        """The key that every node of the lab lets in; made once, however many threads ask."""
        with self._key_lock:
            return key_pair(self.client_key_file)

    def host_key_file(self, node: str) -> Path:
        """Where the node's private host key lies."""
        return self.directories.pki / "hosts" / f"{node}_ed25519"

    def host_key(self, node: str) -> KeyPair:
        """The node's SSH host key, made by us before the node is."""
        with self._key_lock:
            return key_pair(self.host_key_file(node))

    def known_keys(self, node: str) -> tuple[str, ...]:
        """The public keys that the node's machine is made with, as far as they exist; makes none."""
        files = (self.client_key_file, self.host_key_file(node))
        return tuple(key_pair(file).public for file in files if file.exists())

    def forget_connections(self) -> None:
        """Close the connections to nodes; the next ones are made with the keys that are there then."""
        with self._lock:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()

    def close(self) -> None:
        """Close all connections; the lab goes on."""
        self.forget_connections()
        if self._hypervisor is not None:
            self._hypervisor.close()
            self._hypervisor = None

    @contextmanager
    def closing(self) -> Iterator[Lab]:
        """Close all connections at the end of a block."""
        try:
            yield self
        finally:
            self.close()
