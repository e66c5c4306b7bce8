"""One disk that every peer starts its machines from: Testbed's own image, made fit for anybody's hypervisor.

Its files are those of the image.  Added, with no machine started and nothing mounted: a boot loader with kernel and
initrd (GRUB, before and behind the file system: the image is one without partitions), DHCP in place of addresses
that are spelled by MACs, a host key, and a key that lets root in.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from testbed.errors import HostNotReady, LabError
from testbed.guests.keys import KeyPair
from testbed.images import NodeImage, kernel_arguments

GRUB = Path("/usr/lib/grub/i386-pc")
_MODULES = ("biosdisk", "ext2", "linux")
_SECTOR = 512
_BOOT_CODE = 440
"""Bytes of a boot sector before the disk's signature and its table of partitions."""
_KERNEL_SECTOR = 0x5C
"""Where GRUB's boot sector says which sector comes next (GRUB_BOOT_MACHINE_KERNEL_SECTOR)."""
_BLOCK_LIST = _SECTOR - 12
"""Where the next one says where all others begin: 8 bytes; how many they are and their segment follow."""
_ROOM = 1 << 20
"""Bytes behind the file system for the boot loader."""

LOADER = f"""\
set root=(hd0)
linux /boot/vmlinuz {kernel_arguments()}
initrd /boot/initrd
boot
"""
DHCP_UNIT = """\
[Unit]
Description=An address by DHCP
DefaultDependencies=no
Before=shutdown.target
Conflicts=shutdown.target

[Service]
ExecStart=/bin/busybox udhcpc -f -i eth0 -s /usr/lib/testbed/lease
Restart=always

[Install]
WantedBy=sysinit.target
"""
LEASE = """\
#!/bin/sh
# what udhcpc runs: the addresses are in its environment
case $1 in
deconfig) ip link set "$interface" up ;;
bound | renew)
    ip address replace "$ip/${mask:-24}" dev "$interface"
    [ -z "${router:-}" ] || ip route replace default via "${router%% *}" dev "$interface"
    ;;
esac
"""
SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
Subsystem sftp internal-sftp
"""


def build(image: NodeImage, client: KeyPair, host_key: KeyPair, folder: Path) -> Path:
    """Make the disk, a qcow2 file in ``folder``, out of an image that is booted directly.  Its path."""
    if image.kernel is None or image.initrd is None:
        raise LabError(
            "peers", "make a disk for them", "the image is not one of a recipe", "take another inventory"
        )
    raw = folder / "base.raw"
    subprocess.run(["cp", "--sparse=always", str(image.disk), str(raw)], check=True)
    put(raw, image.kernel, "/boot/vmlinuz")
    put(raw, image.initrd, "/boot/initrd")
    for path, (content, mode) in _files(client, host_key).items():
        part = folder / "part"
        part.write_bytes(content)
        put(raw, part, path, mode)
        part.unlink()
    link(raw, "/etc/systemd/system/sysinit.target.wants/dhcp.service", "/etc/systemd/system/dhcp.service")
    make_bootable(raw, core(folder))
    disk = folder / "base.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(disk)], check=True)
    raw.unlink()
    return disk


def _files(client: KeyPair, host_key: KeyPair) -> Mapping[str, tuple[bytes, int]]:
    return {
        "/usr/lib/testbed/nic": (b"#!/bin/sh\n", 0o755),
        "/usr/lib/testbed/lease": (LEASE.encode(), 0o755),
        "/etc/systemd/system/dhcp.service": (DHCP_UNIT.encode(), 0o644),
        "/etc/ssh/sshd_config": (SSHD.encode(), 0o644),
        "/etc/ssh/ssh_host_ed25519_key": (host_key.private, 0o600),
        "/root/.ssh/authorized_keys": (f"{client.public.strip()}\n".encode(), 0o600),
        "/etc/hostname": (b"peer\n", 0o644),
        "/etc/fstab": (b"# vagrant looks for its own lines here\n", 0o644),
    }


def put(disk: Path, content: Path, path: str, mode: int = 0o644) -> None:
    """Write a file into the file system on ``disk``, in place of one of that name; it is root's."""
    debugfs(disk, f"rm {path}", f"write {content} {path}", f"sif {path} mode 0{0o100000 | mode:o}",
            f"sif {path} uid 0", f"sif {path} gid 0")  # fmt: skip
    found = subprocess.run(["debugfs", "-R", f"cat {path}", str(disk)], capture_output=True, check=False).stdout
    if found != content.read_bytes():
        raise LabError(str(disk), f"write {path}", f"it has {len(found)} bytes of other content", "see debugfs(8)")


def link(disk: Path, path: str, target: str) -> None:
    """Make a symbolic link in the file system on ``disk``."""
    debugfs(disk, f"symlink {path} {target}")


def debugfs(disk: Path, *requests: str) -> None:
    """Change the file system on a disk that nobody has mounted."""
    text = "".join(f"{request}\n" for request in requests).encode()
    subprocess.run(["debugfs", "-w", "-f", "-", str(disk)], input=text, capture_output=True, check=True)


def core(folder: Path) -> bytes:
    """GRUB itself, as it is loaded by its boot sector.  Raises HostNotReady where GRUB is not installed."""
    if shutil.which("grub-mkimage") is None or not (GRUB / "boot.img").exists():
        raise HostNotReady("peers", "make a disk for them", "GRUB is not installed", "give --install-peers")
    loader, image = folder / "grub.cfg", folder / "core.img"
    loader.write_text(LOADER)
    argv = ["grub-mkimage", "-O", "i386-pc", "-p", "/boot", "-c", str(loader), "-o", str(image), *_MODULES]
    subprocess.run(argv, check=True)
    try:
        return image.read_bytes()
    finally:
        loader.unlink()
        image.unlink()


def make_bootable(disk: Path, loader: bytes) -> None:
    """Put GRUB's boot sector before the file system, which leaves room for it, and ``loader`` behind it."""
    behind = disk.stat().st_size
    with disk.open("r+b") as file:
        sector = bytearray(file.read(_SECTOR))
        code, rest = chain((GRUB / "boot.img").read_bytes(), loader, behind // _SECTOR)
        sector[:_BOOT_CODE] = code[:_BOOT_CODE]
        sector[-2:] = b"\x55\xaa"
        file.seek(0)
        file.write(sector)
        file.seek(behind)
        file.write(rest)
        os.ftruncate(file.fileno(), behind + _ROOM)


def chain(boot: bytes, loader: bytes, first: int) -> tuple[bytes, bytes]:
    """Boot sector and loader that find each other where the loader's first sector is number ``first`` of the disk.

    As they come they expect it behind the boot sector, number 1, and the rest from number 2 on.
    """
    sector, rest = bytearray(boot), bytearray(loader)
    if len(rest) > _ROOM:
        raise ValueError(f"a boot loader of {len(rest)} bytes")
    if (
        struct.unpack_from("<Q", sector, _KERNEL_SECTOR)[0] != 1
        or struct.unpack_from("<Q", rest, _BLOCK_LIST)[0] != 2
    ):
        raise ValueError("this is not GRUB's boot sector with the image that grub-mkimage makes")
    struct.pack_into("<Q", sector, _KERNEL_SECTOR, first)
    struct.pack_into("<Q", rest, _BLOCK_LIST, first + 1)
    return bytes(sector), bytes(rest)
