"""From a recipe to a disk, a kernel and an initrd, in a cache keyed by what they were made from.

mmdebstrap makes the tree, ``mke2fs -d`` the file system: no loop device, no mount on the host.  As root the
tree is made directly; for anybody else inside a user namespace (which needs subordinate ids, ``newuidmap``).
"""

from __future__ import annotations

import fcntl
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import HostNotReady, LabError
from testbed.images import cpio
from testbed.images.node import NodeImage
from testbed.images.recipe import Recipe, RecipeFile, RecipeFolder
from testbed.model.proxy import content_hash

Progress = Callable[[str], None]
"""Told the name of each stage as it begins."""

BUILDER = "1"
"""Part of every key: raise it when this file makes something else of the same recipe."""

_APPLETS = ("sh", "cat", "chmod", "cp", "insmod", "ip", "mkdir", "mount", "mv", "rmdir", "switch_root", "umount")

_DIVERT = """chroot "$1" dpkg-divert --quiet --local --no-rename --add /usr/sbin/update-initramfs
ln -sf /bin/true "$1/usr/sbin/update-initramfs"
"""

_FINISH = """set -eu
cd "$1"
{customize}
kernel=$(ls lib/modules)
chroot . modprobe -S "$kernel" -a --show-depends {modules} >boot/wanted
sed 's/^insmod \\([^ ]*\\).*/\\1/' boot/wanted | awk '!seen[$0]++' >boot/order
sed 's|^/||' boot/order | tar -cf "$1.boot" -T - boot/order bin/busybox "boot/vmlinuz-$kernel"
rm -rf boot/* etc/ssh/ssh_host_* var/lib/apt/lists/* var/cache/apt/* var/log/*
mkdir -p opt/testbed
# what mmdebstrap mounted below the tree stays out of a bind mount
mkdir "$1.tree"
unshare --mount sh -c 'mount --bind "$1" "$1.tree" &&
    mke2fs -q -t ext4 -L root -m 0 -J size=16 -d "$1.tree" "$1.disk" {kilobytes}k' sh "$1"
rmdir "$1.tree"
"""


@contextmanager
def building(target: Path) -> Iterator[Path | None]:
    """A temporary folder that becomes ``target`` when the block ends well; ``None`` when that exists already.

    One builder at a time per target; the lock dies with its holder, so whatever a dead one left is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in target.parent.glob(f".{target.name}.tmp-*"):
            shutil.rmtree(stale)
        if target.exists():
            yield None
            return
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
        try:
            yield work
            work.chmod(0o755)
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def image_key(folder: RecipeFolder) -> str:
    """The content hash that names an image: the recipe, its files, and the builder's own version."""
    return content_hash(BUILDER, folder.name, folder.key)


def planned_image(folder: RecipeFolder, cache: Path) -> NodeImage:
    """The image of a recipe as it is in ``cache``, or will be once it is built."""
    key = image_key(folder)
    target = cache / "images" / key
    return NodeImage(
        key=key,
        disk=target / "disk.raw",
        format="raw",
        size=folder.recipe.size,
        kernel=target / "vmlinuz",
        initrd=target / "initrd",
    )


def build_image(folder: RecipeFolder, cache: Path, progress: Progress = lambda stage: None) -> NodeImage:
    """The image of a recipe, built unless ``cache`` has it.  Takes about a minute and 1 GB of disk for a while.

    Raises :class:`HostNotReady` when a tool is missing and :class:`LabError` with mmdebstrap's last words.
    """
    key = image_key(folder)
    target = cache / "images" / key
    with building(target) as work:
        if work is not None:
            require("mmdebstrap", "mke2fs", "tar")
            _bootstrap(folder, work, progress)
            progress("initrd")
            _boot_files(folder, work)
            manifest = {"recipe": folder.name, "key": key, "release": folder.recipe.release}
            (work / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return planned_image(folder, cache)


def require(*programs: str, advice: str = "run: testbed doctor --fix") -> None:
    """Raise :class:`HostNotReady` unless all ``programs`` are on the path (system folders included)."""
    missing = [p for p in programs if shutil.which(p, path=system_environment()["PATH"]) is None]
    if missing:
        raise HostNotReady("image", "build", f"not installed: {', '.join(missing)}", advice)


def system_environment() -> dict[str, str]:
    """The environment with system folders on the path: Debian leaves them out for users other than root."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def _bootstrap(folder: RecipeFolder, work: Path, progress: Progress) -> None:
    recipe = folder.recipe
    files, boot, disk = work / "files.tar", work / "boot.tar", work / "disk.raw"
    files.write_bytes(tar_of(folder.files))
    root = os.geteuid() == 0
    finish = _FINISH.format(
        customize="\n".join(_customize(recipe)),
        modules=" ".join(recipe.initrd),
        kilobytes=recipe.size // 1024,
    )
    out = 'mv "$1.boot" "$1/.boot"\n'
    # In a user namespace the tree is not ours: the disk comes out through mmdebstrap, holes filled with zeros.
    out += f'mv "$1.disk" "{disk}"' if root else 'mv "$1.disk" "$1/.disk"'
    options = ["--variant=apt", "--format=null", "--skip=cleanup"]
    options += [f"--include={','.join([*recipe.packages, recipe.kernel])}"]
    options += [f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.exclude]
    options += [f"--essential-hook={_DIVERT}", f"--customize-hook=tar-in {files} /"]
    options += [f"--customize-hook={finish}{out}", f"--customize-hook=download /.boot {boot}"]
    if not root:
        options += [f"--customize-hook=download /.disk {disk}"]
    progress("packages")
    mmdebstrap(f"image {folder.name}", options, recipe.release, Path("/dev/null"), work)
    if not root:
        subprocess.run(["fallocate", "--dig-holes", str(disk)], check=False, capture_output=True)
    files.unlink()


def mmdebstrap(subject: str, options: Iterable[str], release: str, target: Path, work: Path) -> None:
    """Run mmdebstrap in ``work`` (of :func:`building`).  Raises :class:`LabError` with its last words."""
    root = os.geteuid() == 0
    argv = ["mmdebstrap", f"--mode={'root' if root else 'unshare'}", "--components=main", *options]
    # no mirror is named: mmdebstrap takes the host's way to Debian
    argv += [release, str(target)]
    environment = system_environment()
    if root:
        environment["TMPDIR"] = str(work)
    log = work.with_name(f"{work.name.removeprefix('.').split('.tmp-')[0]}.log")
    with log.open("wb") as stderr:
        done = subprocess.run(
            argv, check=False, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=environment
        )
    if done.returncode != 0:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("E:")]
        cause = said[0] if said else f"mmdebstrap ended with status {done.returncode}"
        raise LabError(subject, "build", cause, f"all that it said: {log}")
    log.unlink()


def _customize(recipe: Recipe) -> Iterator[str]:
    for name, number in recipe.users.items():
        yield f"chroot . groupadd --system --gid {number} {name}"
        yield f"chroot . useradd --system --uid {number} --gid {number} -M -s /usr/sbin/nologin {name}"
    units = "etc/systemd/system"
    for unit in recipe.mask:
        yield f"ln -sf /dev/null '{units}/{unit}'"
    yield f"mkdir -p {units}-generators"
    for generator in recipe.mask_generators:
        yield f"ln -sf /dev/null '{units}-generators/{generator}'"
    for target, wanted in recipe.enable.items():
        yield f"mkdir -p {units}/{target}.wants"
        for unit in wanted:
            yield f"ln -sf '/etc/systemd/system/{unit}' '{units}/{target}.wants/{unit}'"
    yield f"ln -sf /lib/systemd/system/multi-user.target {units}/default.target"


def tar_of(files: Iterable[RecipeFile]) -> bytes:
    """The files as a tar archive, owned by root."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for file in files:
            info = tarfile.TarInfo(file.path)
            info.mode = 0o755 if file.executable else 0o644
            info.size = len(file.content)
            tar.addfile(info, io.BytesIO(file.content))
    return out.getvalue()


def _boot_files(folder: RecipeFolder, work: Path) -> None:
    path = work / "boot.tar"
    with tarfile.open(path) as tar:
        content = {m.name: f.read() for m in tar.getmembers() if (f := tar.extractfile(m)) is not None}
    path.unlink()
    [kernel] = (name for name in content if name.startswith("boot/vmlinuz-"))
    (work / "vmlinuz").write_bytes(content[kernel])
    (work / "initrd").write_bytes(initrd(folder.init, content["bin/busybox"], dict(_modules(content))))


def _modules(content: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for line in content["boot/order"].decode().split():
        name, data = line.rsplit("/", 1)[1], content[line.lstrip("/")]
        if name.endswith(".xz"):  # Debian 13 packs its modules
            name, data = name.removesuffix(".xz"), lzma.decompress(data)
        yield name, data


def initrd(init: bytes, busybox: bytes, modules: dict[str, bytes]) -> bytes:
    """An initrd that runs ``init`` with busybox's applets and loads ``modules`` in their order."""
    folders = ("bin", "dev", "etc", "modules", "proc", "root", "run", "sys")
    entries = [cpio.directory(name) for name in folders]
    entries.append(cpio.file("init", init, executable=True))
    entries.append(cpio.file("bin/busybox", busybox, executable=True))
    entries += [cpio.link(f"bin/{applet}", "busybox") for applet in _APPLETS]
    entries += [cpio.file(f"modules/{name}", data) for name, data in modules.items()]
    entries.append(cpio.file("modules/order", "".join(f"{name}\n" for name in modules).encode()))
    return cpio.archive(entries)
