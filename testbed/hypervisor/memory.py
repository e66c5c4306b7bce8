"""The RAM of machines: write it to a file while the machine goes on, start a machine from such a file.

libvirt 9.0 can save memory without ending the domain only as an external snapshot, and can't revert to one; but
that snapshot's memory file is of the same kind as ``virsh save``'s, which it restores.  Disks are left out: whoever
calls copies them while the machine stands still.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt

from testbed.hypervisor.breaking import DomainBreaker
from testbed.hypervisor.cloning import definition_of
from testbed.hypervisor.connection import translated
from testbed.hypervisor.machines import Hypervisor
from testbed.hypervisor.xml import METADATA, Machine


def pause(hypervisor: Hypervisor, node: str) -> None:
    """Stop the machine where it is.  Being paused already is no error."""
    with translated(node, "pause"):
        hypervisor.domain(node).suspend()


def resume(hypervisor: Hypervisor, node: str) -> None:
    """Let a paused machine go on.  Running already is no error."""
    with translated(node, "resume"):
        domain = hypervisor.domain(node)
        if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
            domain.resume()


def save_memory(hypervisor: Hypervisor, node: str, file: Path, *, live: bool = False) -> None:
    """Write the RAM and the devices of a paused machine to ``file``; it stays paused.

    ``live``: of one that runs, and goes on but for the end of it.
    """
    root = ET.Element("domainsnapshot")
    ET.SubElement(root, "memory", snapshot="external", file=str(file))
    with translated(node, "save its memory"):
        domain = hypervisor.domain(node)
        disks = ET.SubElement(root, "disks")
        for target in ET.fromstring(domain.XMLDesc()).findall("devices/disk/target"):  # noqa: S314
            ET.SubElement(disks, "disk", name=target.get("dev", ""), snapshot="no")
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        if live:
            flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_LIVE
        domain.snapshotCreateXML(ET.tostring(root, encoding="unicode"), flags)


def load_memory(hypervisor: Hypervisor, machine: Machine, file: Path, spec: str) -> None:
    """Start a defined machine that is off from ``file``, paused, with ``spec`` as its mark and its own files.

    The definition in the file must be this machine's: libvirt takes no other name, UUID or hardware.
    """
    with translated(machine.node, "restore its memory"):
        connection = hypervisor.connection
        saved = connection.saveImageGetXMLDesc(str(file), libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
        xml = definition_of(machine, spec, saved)
        connection.restoreFlags(str(file), xml, libvirt.VIR_DOMAIN_SAVE_PAUSED)


def mark(hypervisor: Hypervisor, node: str, spec: str) -> None:
    """Write what the machine was made from, on the running machine and on its definition."""
    element = ET.Element("node", lab=hypervisor.lab, node=node, spec=spec)  # libvirt adds the namespace itself
    with translated(node, "mark"):
        domain = hypervisor.domain(node)
        flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
        if domain.isActive():
            flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
        text = ET.tostring(element, encoding="unicode")
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, "testbed", METADATA, flags)


def cut_power(hypervisor: Hypervisor, node: str) -> None:
    """End the machine at once, keeping its definition.  Being off, or not there, is no error."""
    if node in hypervisor.machines():
        DomainBreaker(hypervisor).cut_power(node)
