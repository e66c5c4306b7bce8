"""Domain and network XML from values.  Pure: the same machine always gives the same bytes.

The hardware is settled here and nowhere else, because a RAM image freezes it: see docs/decisions.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from xml.etree import ElementTree as ET

TRANSLATION_CACHE = 192
"""MiB of translated code that an emulated machine keeps."""

RELEASES = "urn:testbed:releases:1"
"""XML namespace of the releases on the disks that a machine was made with."""

METADATA = "urn:testbed:lab:1"
"""XML namespace of what the lab writes into libvirt metadata, the only state that it keeps."""

ET.register_namespace("testbed", METADATA)
ET.register_namespace("testbedreleases", RELEASES)


@dataclass(frozen=True)
class Cpu:
    """The guest's processor: ``model`` None passes the host's through (KVM); else a QEMU model and features."""

    model: str | None
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nic:
    """A network card: the libvirt network it is on, its fixed MAC, the host's name for its tap."""

    network: str
    mac: str
    tap: str


@dataclass(frozen=True)
class Boot:
    """Direct kernel boot; None in its place boots from the disk."""

    kernel: Path
    initrd: Path
    arguments: str


@dataclass(frozen=True)
class Machine:
    """A virtual machine as it shall be defined.  ``memory`` is in bytes."""

    lab: str
    node: str
    vcpus: int
    memory: int
    kvm: bool
    cpu: Cpu
    boot: Boot | None
    disk: Path
    seed: Path
    shared: Path
    console: Path
    nics: tuple[Nic, ...]
    spec: str
    """Content hash of everything that the machine was made from; differing means it has to be made anew."""
    releases: Mapping[str, str] = field(default_factory=dict)
    """Product -> version of what its shared disk has, where that has releases."""

    @property
    def name(self) -> str:
        """The domain's name."""
        return domain_name(self.lab, self.node)


def domain_name(lab: str, node: str) -> str:
    """``<lab>-<node>``: unique on a daemon that several labs share."""
    return f"{lab}-{node}"


def domain_uuid(lab: str, node: str) -> str:
    """Fixed per lab and node, so that a machine made again is the same machine to libvirt."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{METADATA}:{lab}:{node}"))


def network_name(lab: str, role: str) -> str:
    """``<lab>-<role>``, role being management or mesh."""
    return f"{lab}-{role}"


def network_xml(lab: str, role: str, network: IPv4Network, bridge: str, mac: str, spec: str) -> str:
    """An isolated bridge with an address for the host and neither DHCP nor DNS: addresses are fixed in guests.

    So is the bridge's own MAC: machines out of a RAM image answer to the one that they knew when they were saved.
    """
    root = ET.Element("network")
    ET.SubElement(root, "name").text = network_name(lab, role)
    ET.SubElement(root, "uuid").text = domain_uuid(lab, f"network/{role}")
    metadata = ET.SubElement(root, "metadata")
    ET.SubElement(metadata, f"{{{METADATA}}}network", lab=lab, role=role, spec=spec)
    ET.SubElement(root, "bridge", name=bridge, stp="off", delay="0")
    ET.SubElement(root, "mac", address=mac)
    ET.SubElement(root, "dns", enable="no")
    ET.SubElement(root, "ip", address=str(network.network_address + 1), prefix=str(network.prefixlen))
    return _text(root)


def domain_xml(machine: Machine) -> str:
    """The machine's definition."""
    root = ET.Element("domain", type="kvm" if machine.kvm else "qemu")
    ET.SubElement(root, "name").text = machine.name
    ET.SubElement(root, "uuid").text = domain_uuid(machine.lab, machine.node)
    metadata = ET.SubElement(root, "metadata")
    ET.SubElement(metadata, f"{{{METADATA}}}node", lab=machine.lab, node=machine.node, spec=machine.spec)
    if machine.releases:
        ET.SubElement(metadata, f"{{{RELEASES}}}releases", dict(sorted(machine.releases.items())))
    ET.SubElement(root, "memory", unit="b").text = str(machine.memory)
    ET.SubElement(root, "vcpu").text = str(machine.vcpus)
    operating_system = ET.SubElement(root, "os")
    ET.SubElement(operating_system, "type", arch="x86_64", machine="pc").text = "hvm"
    if machine.boot:
        ET.SubElement(operating_system, "kernel").text = str(machine.boot.kernel)
        ET.SubElement(operating_system, "initrd").text = str(machine.boot.initrd)
        ET.SubElement(operating_system, "cmdline").text = machine.boot.arguments
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    if not machine.kvm:
        # QEMU's own default, a gigabyte a machine, is more than the machines have; no slower when measured
        cache = ET.SubElement(ET.SubElement(features, "tcg"), "tb-cache", unit="MiB")
        cache.text = str(TRANSLATION_CACHE)
    _cpu(root, machine.cpu)
    ET.SubElement(root, "clock", offset="utc")
    ET.SubElement(root, "on_reboot").text = "restart"
    ET.SubElement(root, "on_crash").text = "preserve"
    _devices(ET.SubElement(root, "devices"), machine)
    return _text(root)


def _cpu(root: ET.Element, cpu: Cpu) -> None:
    if cpu.model is None:
        ET.SubElement(root, "cpu", mode="host-passthrough", migratable="on")
        return
    element = ET.SubElement(root, "cpu", mode="custom", match="exact", check="none")
    ET.SubElement(element, "model", fallback="forbid").text = cpu.model
    for feature in cpu.features:
        ET.SubElement(element, "feature", policy="require", name=feature)


def _devices(devices: ET.Element, machine: Machine) -> None:
    _disk(devices, "vda", machine.disk, "qcow2")
    _disk(devices, "vdb", machine.seed, "raw", readonly=True)
    _disk(devices, "vdc", machine.shared, "raw", readonly=True)
    for nic in machine.nics:
        element = ET.SubElement(devices, "interface", type="network")
        ET.SubElement(element, "mac", address=nic.mac)
        ET.SubElement(element, "source", network=nic.network)
        ET.SubElement(element, "target", dev=nic.tap)
        ET.SubElement(element, "model", type="virtio")
    serial = ET.SubElement(devices, "serial", type="file")
    ET.SubElement(serial, "source", path=str(machine.console), append="on")
    ET.SubElement(serial, "target", port="0")
    ET.SubElement(devices, "controller", type="usb", model="none")
    rng = ET.SubElement(devices, "rng", model="virtio")
    ET.SubElement(rng, "backend", model="random").text = "/dev/urandom"
    ET.SubElement(devices, "memballoon", model="virtio", freePageReporting="on")


def _disk(devices: ET.Element, target: str, path: Path, kind: str, *, readonly: bool = False) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    # nothing in a lab has to survive the host's power loss: cache=unsafe spares every guest fsync
    ET.SubElement(disk, "driver", name="qemu", type=kind, cache="unsafe", discard="unmap")
    ET.SubElement(disk, "source", file=str(path))
    ET.SubElement(disk, "target", dev=target, bus="virtio")
    if readonly:
        ET.SubElement(disk, "readonly")
        ET.SubElement(disk, "shareable")


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")
