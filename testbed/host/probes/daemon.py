"""libvirt: reachable if the system's is wanted, startable if the lab has its own."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from pathlib import Path

from testbed.errors import TestbedError
from testbed.host.daemon import PrivateDaemon
from testbed.host.directories import LabDirectories
from testbed.host.finding import Finding, Level

_SYSTEM_SOCKET = Path("/run/libvirt/libvirt-sock")
_WHY = "every machine is started through it"


def probe(uri: str) -> list[Finding]:
    """``uri`` as in the inventory: ``auto``, or a libvirt URI."""
    if uri == "auto":
        return [_private()]
    if uri.startswith("qemu:///system"):
        return [_system(_SYSTEM_SOCKET)]
    return [Finding("libvirt", Level.OK, f"{uri} is tried when it is needed", _WHY)]


def _private() -> Finding:
    with tempfile.TemporaryDirectory(prefix="testbed-doctor-") as folder:
        directories = LabDirectories("doctor", Path(folder) / "state", Path(folder) / "run")
        daemon = PrivateDaemon("doctor", directories)
        began = time.monotonic()
        try:
            daemon.start(limit=15)
            took = time.monotonic() - began
        except TestbedError as e:
            return Finding(
                "libvirt", Level.MISSING, f"a private daemon doesn't start: {e.cause}", _WHY, e.next_step
            )
        finally:
            if os.geteuid() == 0:
                daemon.stop()
    return Finding("libvirt", Level.OK, f"a private daemon started in {took:.1f} s, and was ended", _WHY)


def _system(path: Path) -> Finding:
    with socket.socket(socket.AF_UNIX) as probe_socket:
        probe_socket.settimeout(5)
        try:
            probe_socket.connect(str(path))
        except PermissionError:
            fix = ("usermod", "-aG", "libvirt", os.environ.get("USER", str(os.geteuid())))
            mend = " ".join(fix) + ", then log in again"
            return Finding("libvirt", Level.MISSING, f"{path} may not be used by this user", _WHY, mend, fix)
        except OSError as e:
            fix = ("systemctl", "enable", "--now", "libvirtd.socket")
            detail = f"nobody answers at {path}: {e.strerror or e}"
            return Finding("libvirt", Level.MISSING, detail, _WHY, " ".join(fix), fix)
    return Finding("libvirt", Level.OK, f"the system's daemon answers at {path}", _WHY)
