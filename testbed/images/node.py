"""What a machine boots from, as the hypervisor needs to know it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CPU_MODEL = "qemu64"
CPU_FEATURES: tuple[str, ...] = ("aes", "pclmuldq", "popcnt", "rdrand", "sse4.1", "sse4.2", "ssse3")
"""What is added to ``qemu64`` under emulation, by libvirt's names; each further one slows the boot.

Debian 12 and Envoy 1.40 run without any.  These double the speed of AES-GCM, which every connection between
sidecars pays for, and give the kernel randomness before the first disk is read.  The SSE ones belong to it:
with ``aes`` but without ``sse4.1``, a processor that nobody made, OpenSSL dies of an illegal instruction.
"""


@dataclass(frozen=True)
class NodeImage:
    """A base disk for overlays; with a kernel it is booted directly, without one by its own boot loader."""

    key: str
    disk: Path
    format: Literal["raw", "qcow2"]
    size: int
    """Of the disk as a machine sees it, in bytes."""
    kernel: Path | None = None
    initrd: Path | None = None

    @property
    def direct(self) -> bool:
        """Whether the hypervisor loads the kernel."""
        return self.kernel is not None


def kernel_arguments(*extra: str) -> str:
    """The command line of a directly booted node.

    ``net.ifnames=0``: eth0 is management, eth1 the mesh.  ``unknown_nmi_panic``: an injected NMI kills the
    kernel, which is how a fault makes a machine hang hard.  The console is the serial port.
    """
    words = (
        "root=/dev/vda rw console=ttyS0 quiet loglevel=4 net.ifnames=0 unknown_nmi_panic=1 panic=0",
        "mitigations=off random.trust_cpu=on no_timer_check audit=0 systemd.show_status=false",
    )
    return " ".join((*words, *extra))
