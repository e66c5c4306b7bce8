"""Several machines from one RAM image: the only place that knows how libvirt's save files are laid out.

libvirt starts a machine from a save file only under the name, UUID and MACs that the file says.  So the file of a
clone is written anew, with a definition of its own in front of the same memory.  At the front of such a file are
92 bytes, the definition and a cookie, each ended by a NUL (virQEMUSaveHeader in libvirt's qemu_saveimage.h).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt

from testbed.errors import LabError
from testbed.hypervisor.connection import translated
from testbed.hypervisor.machines import Hypervisor
from testbed.hypervisor.xml import METADATA, Machine, domain_uuid

_MAGIC = b"LibvirtQemudSave"
_VERSION = 2
_HEADER = struct.Struct("<16s5I56x")
"""Magic, version, length of the definition and the cookie, whether it ran, compression, where the cookie begins."""


@dataclass(frozen=True)
class SaveFile:
    """The front of a save file; after it comes the memory, as QEMU wrote it."""

    definition: str
    cookie: bytes
    length: int
    """Bytes before the memory."""
    ran: int
    compression: int


def read_front(data: bytes, name: str) -> SaveFile:
    """Parse the front of a save file; ``data`` has all of it and may go on.  Raises LabError for anything else."""
    if len(data) < _HEADER.size:
        raise _strange(name, "it is cut short")
    magic, version, length, ran, compression, cookie = _HEADER.unpack_from(data)
    end = _HEADER.size + length
    if magic != _MAGIC or version != _VERSION:
        raise _strange(name, f"its header is {magic!r}, version {version}")
    if len(data) < end or cookie > length:
        raise _strange(name, "it is cut short")
    definition = data[_HEADER.size : _HEADER.size + cookie if cookie else end].split(b"\0", 1)[0]
    rest = data[_HEADER.size + cookie : end].split(b"\0", 1)[0] if cookie else b""
    return SaveFile(definition.decode(), rest, end, ran, compression)


def write_front(front: SaveFile, definition: str) -> bytes:
    """The front of a save file with another definition and the same cookie."""
    xml = definition.encode() + b"\0"
    cookie = front.cookie + b"\0" if front.cookie else b""
    header = (_MAGIC, _VERSION, len(xml + cookie), front.ran, front.compression, len(xml) if cookie else 0)
    return _HEADER.pack(*header) + xml + cookie


def definition_of(machine: Machine, spec: str, template: str) -> str:
    """``template``, the definition of a machine of the same hardware, as that of ``machine`` on this host.

    Name, UUID, mark, files and network cards change; every device stays where the guest knows it.
    """
    root = ET.fromstring(template)  # noqa: S314  (libvirt's own)
    _find(root, "name").text = machine.name
    _find(root, "uuid").text = domain_uuid(machine.lab, machine.node)
    mark = _find(root, f"metadata/{{{METADATA}}}node")
    mark.attrib.update(lab=machine.lab, node=machine.node, spec=spec)
    if machine.boot is not None:
        _find(root, "os/kernel").text = str(machine.boot.kernel)
        _find(root, "os/initrd").text = str(machine.boot.initrd)
    for target, path in (("vda", machine.disk), ("vdb", machine.seed), ("vdc", machine.shared)):
        _find(root, f"devices/disk/target[@dev='{target}']/../source").set("file", str(path))
    for nic, card in zip(machine.nics, root.iterfind("devices/interface"), strict=True):
        _find(card, "mac").set("address", nic.mac)
        _find(card, "source").attrib.clear()
        _find(card, "source").set("network", nic.network)
        _find(card, "target").set("dev", nic.tap)
    for console in ("serial", "console"):
        for source in root.iterfind(f"devices/{console}/source"):
            source.set("path", str(machine.console))
    return ET.tostring(root, encoding="unicode")


def clone(hypervisor: Hypervisor, machine: Machine, spec: str, memory: Path) -> None:
    """Start the defined machine from a template's ``memory``, paused; its disks are there.

    Its copy of the memory lies beside its disk for as long as this takes.
    """
    copy = machine.disk.with_suffix(".ram")
    try:
        try:
            _copy(memory, copy, machine, spec)
        except OSError as e:
            raise LabError(machine.node, "copy a template's memory", str(e), "see that the disk has room") from e
        with translated(machine.node, "start it from a template"):
            hypervisor.connection.restoreFlags(str(copy), None, libvirt.VIR_DOMAIN_SAVE_PAUSED)
    finally:
        copy.unlink(missing_ok=True)


def _copy(memory: Path, copy: Path, machine: Machine, spec: str) -> None:
    with memory.open("rb") as source, copy.open("wb") as target:
        front = read_front(source.read(1 << 20), memory.name)
        target.write(write_front(front, definition_of(machine, spec, front.definition)))
        target.flush()
        source.seek(front.length)
        left = os.fstat(source.fileno()).st_size - front.length
        while left > 0 and (sent := os.sendfile(target.fileno(), source.fileno(), None, left)):
            left -= sent


def _find(root: ET.Element, path: str) -> ET.Element:
    found = root.find(path)
    if found is None:
        raise _strange("template", f"its definition has no {path}")
    return found


def _strange(name: str, cause: str) -> LabError:
    return LabError(name, "read it as a save file of libvirt's", cause, "run: testbed up --cold")
