"""Domains and networks of one lab on one libvirt: define, start, look, remove.

Ownership is libvirt metadata: whatever carries the lab's id is the lab's, whatever doesn't is never touched.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt

from testbed.errors import LabError
from testbed.hypervisor.connection import connect, translated
from testbed.hypervisor.xml import METADATA, Machine, domain_name, domain_xml, network_name
from testbed.waiting import NotYet, wait_until


class Power(StrEnum):
    """A domain's state, in the words that ``virsh`` uses."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTOFF = "shut off"
    CRASHED = "crashed"
    OTHER = "other"


_POWER = {
    libvirt.VIR_DOMAIN_RUNNING: Power.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: Power.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: Power.SHUTOFF,
    libvirt.VIR_DOMAIN_CRASHED: Power.CRASHED,
}


@dataclass(frozen=True)
class FoundMachine:
    """A domain that carries the lab's id."""

    node: str
    spec: str
    power: Power


@dataclass(frozen=True)
class FoundNetwork:
    """A libvirt network that carries the lab's id."""

    role: str
    spec: str
    active: bool


class Hypervisor:
    """The lab's part of a libvirt daemon.  Safe to use from several threads, as libvirt's connection is."""

    def __init__(self, uri: str, lab: str) -> None:
        self.lab = lab
        self.uri = uri
        self._libvirt = connect(uri)

    @property
    def connection(self) -> libvirt.virConnect:
        """libvirt's own connection, for the rest of this room."""
        return self._libvirt

    def close(self) -> None:
        """Close the connection; machines go on."""
        self._libvirt.close()

    def versions(self) -> Mapping[str, str]:
        """The versions of libvirt and of what runs the machines."""
        with translated(self.lab, "ask for versions"):
            found = {"libvirt": self._libvirt.getLibVersion(), self._libvirt.getType(): self._libvirt.getVersion()}
        return {name.lower(): f"{n // 10**6}.{n // 1000 % 1000}.{n % 1000}" for name, n in found.items()}

    def machines(self) -> Mapping[str, FoundMachine]:
        """The lab's machines by node name."""
        with translated(self.lab, "list machines"):
            found = (self._machine(d) for d in self._libvirt.listAllDomains())
            return {m.node: m for m in found if m is not None}

    def networks(self) -> Mapping[str, FoundNetwork]:
        """The lab's networks by role."""
        with translated(self.lab, "list networks"):
            found = (self._network(n) for n in self._libvirt.listAllNetworks())
            return {n.role: n for n in found if n is not None}

    def define_network(self, role: str, xml: str) -> None:
        """Define the network and bring it up; an old one of the same role goes first."""
        with translated(f"network {role}", "define"):
            self._refuse_foreign(network_name(self.lab, role), is_network=True)
            self.remove_network(role)
            network = self._libvirt.networkDefineXML(xml)
            network.setAutostart(0)
            network.create()

    def start_network(self, role: str) -> None:
        """Bring a defined network up."""
        with translated(f"network {role}", "start"):
            network = self._libvirt.networkLookupByName(network_name(self.lab, role))
            if not network.isActive():
                network.create()

    def remove_network(self, role: str) -> None:
        """Remove the network of that role if there is one."""
        if role not in self.networks():
            return
        with translated(f"network {role}", "remove"):
            network = self._libvirt.networkLookupByName(network_name(self.lab, role))
            if network.isActive():
                network.destroy()
            network.undefine()

    def define(self, machine: Machine) -> None:
        """Define the domain, not yet started."""
        with translated(machine.node, "define"):
            self._refuse_foreign(machine.name, is_network=False)
            self._libvirt.defineXML(domain_xml(machine))

    def start(self, node: str) -> None:
        """Start a defined machine, or resume a paused one.  Running already is no error."""
        with translated(node, "start"):
            domain = self.domain(node)
            power = _POWER.get(domain.state()[0], Power.OTHER)
            if power is Power.PAUSED:
                domain.resume()
            elif power is not Power.RUNNING:
                if power is Power.CRASHED:
                    domain.destroy()
                domain.create()

    def shut_down(self, node: str, limit: float) -> None:
        """Ask the guest to power off (ACPI) and wait; ``limit`` in seconds, then the power is cut."""
        with translated(node, "shut down"):
            domain = self.domain(node)
            if not domain.isActive():
                return
            domain.shutdown()

            def off() -> None:
                if domain.isActive():
                    raise NotYet("still running")

            try:
                wait_until(f"{node} powers off", off, limit=limit)
            except TimeoutError:
                domain.destroy()

    def remove(self, node: str) -> None:
        """Cut the power and undefine.  A machine that is not there is no error."""
        if node not in self.machines():
            return
        with translated(node, "remove"):
            domain = self.domain(node)
            if domain.isActive():
                domain.destroy()
            flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            domain.undefineFlags(flags)

    def domain(self, node: str) -> libvirt.virDomain:
        """The domain of a node, for the rest of this room."""
        return self._libvirt.lookupByName(domain_name(self.lab, node))

    def _machine(self, domain: libvirt.virDomain) -> FoundMachine | None:
        try:
            mark = _metadata(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA), "node")
            power = _POWER.get(domain.state()[0], Power.OTHER)
        except libvirt.libvirtError as e:
            if e.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN):
                return None
            raise
        if mark.get("lab") != self.lab:
            return None
        return FoundMachine(mark.get("node", ""), mark.get("spec", ""), power)

    def _network(self, network: libvirt.virNetwork) -> FoundNetwork | None:
        try:
            element = ET.fromstring(network.XMLDesc()).find(f"metadata/{{{METADATA}}}network")  # noqa: S314
            active = bool(network.isActive())
        except libvirt.libvirtError as e:
            if e.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
                return None
            raise
        if element is None or element.get("lab") != self.lab:
            return None
        return FoundNetwork(element.get("role", ""), element.get("spec", ""), active)

    def _refuse_foreign(self, name: str, *, is_network: bool) -> None:
        """Never define over something that isn't ours: libvirt would replace it silently."""
        try:
            if is_network:
                foreign = self._network(self._libvirt.networkLookupByName(name)) is None
            else:
                foreign = self._machine(self._libvirt.lookupByName(name)) is None
        except libvirt.libvirtError:
            return
        if foreign:
            raise LabError(
                name, "define", "the name is taken by something that this lab doesn't own", "rename the lab"
            )


def _metadata(xml: str, tag: str) -> Mapping[str, str]:
    element = ET.fromstring(xml)  # noqa: S314  (written by us, kept by libvirt)
    own = element if element.tag.endswith(tag) else element.find(f"{{{METADATA}}}{tag}")
    return own.attrib if own is not None else {}


def create_overlay(path: Path, base: Path, base_format: str, size: int) -> None:
    """A copy-on-write qcow2 of ``size`` bytes over ``base``, by rename: never half there."""
    part = path.with_suffix(".part")
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", base_format, str(part), str(size)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(path.name, "create disk", done.stderr.strip() or "qemu-img failed", "run: testbed doctor")
    part.rename(path)
