"""What breaks and mends a domain, and the notes about it that libvirt keeps.

A note is written into the domain's persistent metadata before anything is done, under an XML namespace of its
own: adding and taking one away is atomic, and whoever comes after a kill -9 finds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from errno import EIO
from xml.etree import ElementTree as ET

import libvirt
import libvirt_qemu

from testbed.errors import LabError
from testbed.hypervisor.connection import translated
from testbed.hypervisor.machines import Hypervisor, Power

NOTE = "urn:testbed:fault:"
"""XML namespace of a note, with the fault's id at its end."""
FAILING = "failing-"
"""Before the name of a disk's node, for the one that lets its writes fail (31 characters at most in QEMU)."""


@dataclass(frozen=True)
class DomainBreaker:
    """Breaks the lab's machines.  Every method names a node; all raise HypervisorError."""

    hypervisor: Hypervisor

    def _domain(self, node: str) -> libvirt.virDomain:
        return self.hypervisor.domain(node)

    def notes(self) -> Mapping[str, Mapping[str, str]]:
        """Node -> (fault id -> text), of all of the lab's machines."""
        found: dict[str, dict[str, str]] = {}
        with translated(self.hypervisor.lab, "read what faults there are"):
            for node in self.hypervisor.machines():
                xml = self._domain(node).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
                if NOTE not in xml:
                    continue
                for element in ET.fromstring(xml).iterfind("metadata/*"):  # noqa: S314 - written by us
                    namespace = element.tag[1:].partition("}")[0]
                    if namespace.startswith(NOTE):
                        found.setdefault(node, {})[namespace.removeprefix(NOTE)] = element.text or ""
        return found

    def note(self, node: str, fault: str, text: str | None) -> None:
        """Write a note, or (None) take it away; one that is gone already is no error."""
        element = None
        if text is not None:
            made = ET.Element("fault")
            made.text = text
            element = ET.tostring(made, encoding="unicode")
        with translated(node, "note a fault"):
            try:
                self._domain(node).setMetadata(
                    libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                    element,
                    "fault" + fault,
                    NOTE + fault,
                    libvirt.VIR_DOMAIN_AFFECT_CONFIG,
                )
            except libvirt.libvirtError as e:
                if text is not None or e.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                    raise

    def power(self, node: str) -> Power:
        """The domain's state now."""
        found = self.hypervisor.machines().get(node)
        return found.power if found else Power.OTHER

    def freeze(self, node: str) -> None:
        """Stop its processors where they are."""
        with translated(node, "freeze"):
            self._domain(node).suspend()

    def cut_power(self, node: str) -> None:
        """Power off at once; a machine that is off is no error."""
        with translated(node, "cut its power"):
            domain = self._domain(node)
            if domain.isActive():
                domain.destroy()

    def reset(self, node: str) -> None:
        """Press the reset button."""
        with translated(node, "reset"):
            self._domain(node).reset(0)

    def interrupt(self, node: str) -> None:
        """Inject an NMI, which the nodes' kernels take for the end."""
        with translated(node, "inject an NMI"):
            self._domain(node).injectNMI(0)

    def set_carrier(self, node: str, tap: str, *, up: bool) -> None:
        """Plug or unplug the NIC behind ``tap``."""
        with translated(node, f"set the carrier of {tap}"):
            domain = self._domain(node)
            for element in ET.fromstring(domain.XMLDesc()).iterfind("devices/interface"):  # noqa: S314
                target = element.find("target")
                if target is not None and target.get("dev") == tap:
                    link = element.find("link")
                    if link is None:
                        link = ET.SubElement(element, "link")
                    link.set("state", "up" if up else "down")
                    xml = ET.tostring(element, encoding="unicode")
                    domain.updateDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def frames_sent(self, node: str, tap: str) -> int:
        """How many frames the guest has sent through ``tap`` since it was started."""
        with translated(node, f"read the counters of {tap}"):
            return int(self._domain(node).interfaceStats(tap)[5])

    def throttle_writes(self, node: str, disk: str, rate: int) -> None:
        """At most ``rate`` bytes a second are written to ``disk``; 0 lifts it."""
        with translated(node, f"throttle {disk}"):
            limits = {"write_bytes_sec": rate}
            self._domain(node).setBlockIoTune(disk, limits, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def writes_limited(self, node: str, disk: str) -> int:
        """How many bytes a second may be written to ``disk``; 0 for any number."""
        with translated(node, f"read the limits of {disk}"):
            return int(
                self._domain(node).blockIoTune(disk, libvirt.VIR_DOMAIN_AFFECT_LIVE).get("write_bytes_sec", 0)
            )

    def fail_writes(self, node: str, disk: str, *, fail: bool) -> None:
        """Every write to ``disk`` fails with EIO, by a ``blkdebug`` node between the device and its image (QEMU can
        change a device's node while it runs since 6.1).  Repeating either changes nothing."""
        with translated(node, f"let writes to {disk} {'fail' if fail else 'through'}"):
            domain = self._domain(node)
            devices = ET.fromstring(domain.XMLDesc())  # noqa: S314
            alias = devices.find(f"devices/disk/target[@dev='{disk}']/../alias")
            assert alias is not None  # noqa: S101 - libvirt gives every device of a running domain one
            device = {"path": f"/machine/peripheral/{alias.get('name')}", "property": "drive"}
            now = str(self._monitor(domain, "qom-get", device))
            image = now.removeprefix(FAILING)
            if fail and now == image:
                rule = {"event": "none", "iotype": "write", "errno": EIO}
                node_of = {"driver": "blkdebug", "node-name": FAILING + image, "image": image}
                self._monitor(domain, "blockdev-add", {**node_of, "inject-error": [rule]})
                self._monitor(domain, "qom-set", {**device, "value": FAILING + image})
            elif not fail and now != image:
                self._monitor(domain, "qom-set", {**device, "value": image})
                self._monitor(domain, "blockdev-del", {"node-name": now})

    def _monitor(self, domain: libvirt.virDomain, command: str, arguments: Mapping[str, object]) -> object:
        """QEMU's own answer, past libvirt, which has no word for it."""
        text = json.dumps({"execute": command, "arguments": arguments})
        said = json.loads(libvirt_qemu.qemuMonitorCommand(domain, text, 0))
        if "error" in said:
            raise LabError(domain.name(), command, str(said["error"]["desc"]), "run: testbed doctor")
        return said["return"]

    def set_memory(self, node: str, size: int) -> None:
        """Let the balloon leave the guest ``size`` bytes."""
        with translated(node, "set its memory"):
            self._domain(node).setMemoryFlags(size // 1024, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def memory(self, node: str) -> int:
        """Bytes that the balloon leaves the guest now: it comes to what was set little by little.

        Libvirt's own figure is of QEMU's last event, which comes once a second at most.
        """
        with translated(node, "ask for its memory"):
            said = self._monitor(self._domain(node), "query-balloon", {})
        assert isinstance(said, dict)  # noqa: S101 as QEMU defines it
        return int(said["actual"])
