"""`kcli create vm`, several at once."""

from __future__ import annotations

from pathlib import Path

from peers.host import Host
from testbed.host.directories import cache_root


class Kcli:
    """kcli, out of a virtual environment of its own."""

    name = "kcli"

    @staticmethod
    def environment() -> Path:
        """The virtual environment."""
        return cache_root() / "benchmarks" / "kcli"

    def missing(self) -> str:
        """Why it can't be measured."""
        return "" if self._program.exists() else f"there is no {self._program}"

    @property
    def _program(self) -> Path:
        return self.environment() / "bin" / "kcli"

    def prepare(self, host: Host, disk: Path, count: int) -> None:
        """Nothing has to be: the disk is in the pool."""
        del disk, count
        host.run("virsh", "pool-refresh", "default")

    def start(self, host: Host, disk: Path, count: int) -> None:
        """It returns when all are started."""
        host.run(str(self._program), *create(disk, count, emulated=host.emulated))

    def remove(self, host: Host, count: int) -> None:
        """With their disks."""
        del count
        if names := host.machines():
            host.run(str(self._program), "delete", "vm", "--yes", *names)


def create(disk: Path, count: int, *, emulated: bool) -> list[str]:
    """Make and start so many machines of the image in the pool."""
    kind = ["--param", "virttype=qemu"] if emulated else []
    return ["create", "vm", "--image", disk.name, "--count", str(count), *kind, "peer"]
