"""`virt-install --import`, one machine after another."""

from __future__ import annotations

import shutil
from pathlib import Path

from peers.host import Host, seen


class VirtInstall:
    """virt-install, of virt-manager: a command for each machine, on a layer over the disk that it makes itself."""

    name = "virt-install"

    def missing(self) -> str:
        """Why it can't be measured."""
        return "" if shutil.which("virt-install") else "there is no virt-install"

    def prepare(self, host: Host, disk: Path, count: int) -> None:
        """Nothing has to be: the disk is in the pool."""
        del disk, count
        host.run("virsh", "pool-refresh", "default")

    def start(self, host: Host, disk: Path, count: int) -> None:
        """Each returns once its machine was started; it is not waited for until all are."""
        for number in range(count):
            host.run(*command(f"peer-{number}", disk, emulated=host.emulated))

    def remove(self, host: Host, count: int) -> None:
        """With their disks."""
        del count
        host.clear()


def command(name: str, disk: Path, *, emulated: bool) -> list[str]:
    """Make and start a machine.  Memory, processors, devices and network are what it takes for such a system."""
    backing = f"backing_store={seen(disk)},backing_format=qcow2,size=10"
    kind = ["--virt-type", "qemu"] if emulated else []
    return ["virt-install", "--import", "--name", name, "--osinfo", "debian11", "--disk", backing, *kind,
            "--noautoconsole"]  # fmt: skip
