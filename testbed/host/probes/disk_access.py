"""Whether the system's libvirt may open a lab's disks: permissions on the way there, and AppArmor."""

from __future__ import annotations

import stat
from pathlib import Path

from testbed.host.finding import Finding, Level

_WHY = "QEMU runs as a user of its own and under a profile; a disk that it can't open is a machine that won't start"
_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_PROFILES = Path("/etc/apparmor.d/libvirt")


def probe(uri: str, folder: Path) -> list[Finding]:
    """``folder`` is where the lab's disks lie."""
    if uri == "auto":
        return [Finding("disk access", Level.OK, "the private daemon runs machines as root, unconfined", _WHY)]
    return [_permissions(folder), _apparmor(folder)]


def _permissions(folder: Path) -> Finding:
    closed = [p for p in (folder, *folder.parents) if p.exists() and not p.stat().st_mode & stat.S_IXOTH]
    if closed:
        detail = "other users may not pass " + ", ".join(map(str, reversed(closed)))
        mend = "set XDG_STATE_HOME to a folder that they may pass, such as /var/lib"
        return Finding("disk access", Level.WARNING, detail, _WHY, mend)
    return Finding("disk access", Level.OK, f"QEMU's user may reach {folder}", _WHY)


def _apparmor(folder: Path) -> Finding:
    name = "AppArmor"
    if not _ENABLED.exists() or _ENABLED.read_text().strip() != "Y" or not _PROFILES.is_dir():
        return Finding(name, Level.OK, "not in force for libvirt", _WHY)
    # libvirt's helper writes a rule for every disk that is given by file name; below these it refuses to.
    # Source: the list of restricted paths in virt-aa-helper's valid_path().
    refused = ("/bin/", "/etc/", "/lib", "/lost+found/", "/proc/", "/sbin/", "/sys/", "/usr/")
    if str(folder).startswith(refused):
        mend = "set XDG_STATE_HOME to a folder outside the system's own"
        return Finding(name, Level.MISSING, f"libvirt's profiles never allow {folder}", _WHY, mend)
    return Finding(name, Level.OK, "in force; libvirt allows each machine its own disks", _WHY)
