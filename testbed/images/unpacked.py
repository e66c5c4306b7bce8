"""k3s and the images of a cluster, unpacked once on this host, so that no node does it.

The k3s binary unpacks itself at its first start, and brings each archive of images into containerd's store; for
both an emulated node takes minutes.  So k3s does it here, its own containerd unpacks the images, and the shared
disk gets what came of it: ``k3s/data``, which is k3s's folder of that name, and ``k3s/store``.  There ``start`` is
what containerd's folder of a node begins as: its databases, with links in place of layers and blobs, which stay on
the disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import LabError
from testbed.images.build import require
from testbed.waiting import NotYet, wait_until

VERSION = "1"
"""Part of every key: raise it when this file makes something else of the same releases."""

MOUNTED = Path("/opt/testbed")
"""Where nodes have the disk."""

_BINARY, _DATA, _STORE = "k3s/k3s", "k3s/data", "k3s/store"
_CONTENT = Path("io.containerd.content.v1.content/blobs")
_DATABASE = Path("io.containerd.metadata.v1.bolt/meta.db")
_LAYERS = Path("io.containerd.snapshotter.v1.overlayfs")
_HUB = "docker.io/"
_STEP = 60.0
"""Seconds for containerd to answer, or to end."""
_LIMIT = 600.0
"""Seconds for k3s, or one archive, to be unpacked."""

# Nothing but images: no pods, and no folder of the host's own. Keys of CRI's are of containerd 1 and of 2.
_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.restart",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/opt"
"""


def unpack_cluster(top: Path) -> None:
    """In ``top``, which becomes the shared disk, put what k3s unpacks beside it, and in place of all archives of
    images (``*.tar``) what containerd does.  Needs root.

    Raises :class:`LabError` with the program's last words when one of them can't.
    """
    programs = _unpack_k3s(top / _BINARY, top / _DATA)
    archives = sorted(top.rglob("*.tar"))
    with tempfile.TemporaryDirectory(dir=top.parent, prefix="containerd-") as root:
        with _containerd(programs, Path(root)) as socket:
            images = [str(programs / "ctr"), "--address", str(socket), "--namespace", "k8s.io", "images"]
            for archive in archives:
                _run(f"unpack {archive.name}", [*images, "import", str(archive)])
            for name in _run("list the images", [*images, "list", "--quiet"]).split():
                short = name.removeprefix(_HUB)
                if short != name and "pause" in short:
                    # k3s names it so to containerd, which takes a pod's first image by the very name
                    _run(f"name {short}", [*images, "tag", name, short])
        _lay_store(Path(root), top / _STORE)
    for archive in archives:
        archive.unlink()


def _unpack_k3s(binary: Path, data: Path) -> Path:
    """Make k3s's folder ``data``; where its programs are."""
    with tempfile.TemporaryDirectory(dir=data.parent) as work:
        _run("unpack k3s", [str(binary), "ctr", "--version"], {**os.environ, "K3S_DATA_DIR": work})
        made = Path(work) / "data"
        current = made / "current"
        if not current.is_symlink():
            raise LabError("shared disk", "unpack k3s", "it made no data/current", "testbed artifacts verify")
        name = current.readlink().name
        for link in (current, *(path for path in (made / "cni").iterdir() if path.is_symlink())):
            # they lead to where it was unpacked
            target = os.path.relpath(link.readlink(), link.parent)
            link.unlink()
            link.symlink_to(target)
        made.rename(data)
    return data / name / "bin"


@contextmanager
def _containerd(programs: Path, root: Path) -> Iterator[Path]:
    """Run k3s's containerd with its folder ``root``, with no network; its socket."""
    require("unshare")
    # the path of a socket is short
    with tempfile.TemporaryDirectory(prefix="testbed-") as state, (root / "log").open("wb") as log:
        socket, config = Path(state) / "socket", Path(state) / "config.toml"
        config.write_text(_CONFIG.format(root=root, state=state, socket=socket))
        argv = ["unshare", "--mount", "--net", str(programs / "containerd"), "--config", str(config)]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def answers() -> None:
            if process.poll() is not None:
                raise LabError("shared disk", "start containerd", _last(root / "log"), "testbed doctor")
            asked = [str(programs / "ctr"), "--address", str(socket), "version"]
            if subprocess.run(asked, capture_output=True, check=False).returncode != 0:
                raise NotYet(_last(root / "log"))

        try:
            wait_until("containerd answers on this host", answers, limit=_STEP, interval=0.2)
            yield socket
            process.terminate()
            process.wait(_STEP)
        finally:
            process.kill()
            process.wait()


def _lay_store(root: Path, store: Path) -> None:
    """From containerd's folder: layers and blobs, and beside them the folder that a node's begins as."""
    start = store / "start"
    layers, blobs = store / "layers", store / "blobs"
    for folder in (layers, start / _LAYERS / "snapshots"):
        folder.mkdir(parents=True)
    for database in (_DATABASE, _LAYERS / "metadata.db"):
        (start / database).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / database, start / database)
    found = sorted((root / _LAYERS / "snapshots").iterdir())
    if not found:
        raise LabError("shared disk", "unpack images", "containerd has no layer of any", "testbed artifacts verify")
    for layer in found:
        (layer / "fs").rename(layers / layer.name)
        own = start / _LAYERS / "snapshots" / layer.name
        shutil.copytree(layer, own, symlinks=True)
        shutil.copystat(layer, own)
        (own / "fs").symlink_to(MOUNTED / _STORE / "layers" / layer.name)
    (root / _CONTENT).rename(blobs)
    for blob in sorted(path for path in blobs.rglob("*") if path.is_file()):
        link = start / _CONTENT / blob.relative_to(blobs)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(MOUNTED / _STORE / "blobs" / blob.relative_to(blobs))


def _run(action: str, argv: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """Run a program; its output.  LabError with its last words when it fails."""
    said, cause = "", ""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, timeout=_LIMIT)
        said = done.stdout
        if done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()
            cause = words[-1] if words else f"status {done.returncode}"
    except OSError as e:
        cause = str(e)
    except subprocess.TimeoutExpired:
        cause = f"it took more than {_LIMIT:g} s"
    if cause:
        raise LabError("shared disk", action, cause, "testbed artifacts verify")
    return said


def _last(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").splitlines()[-1:])
