"""What is inside Istio's release: the program that makes manifests, and which proxy the release brings."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from testbed.errors import LabError

_PROXY = "usr/local/bin/envoy"
_MARK = b"istio.alpn"
"""A filter that Istio's build of Envoy has and Envoy itself has not; istiod asks for it by this name."""

_CHUNK = 1 << 22


def istioctl(archive: Path, folder: Path) -> Path:
    """``istioctl`` of the release's archive, taken out into ``folder`` unless it is there.

    Raises :class:`LabError` when the archive has none.
    """
    target = folder / "istioctl"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".istioctl.{os.getpid()}"
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and member.name.endswith("/bin/istioctl"):
                    source = tar.extractfile(member)
                    assert source is not None  # noqa: S101 a file has content
                    with source, part.open("wb") as file:
                        shutil.copyfileobj(source, file, _CHUNK)
                    part.chmod(0o755)
                    part.rename(target)
                    return target
    except (OSError, tarfile.TarError) as e:
        raise LabError(archive.name, "take istioctl out of it", str(e), "testbed artifacts verify") from None
    raise LabError(archive.name, "take istioctl out of it", "it has no bin/istioctl", "testbed artifacts pull")


def generate(program: Path, settings: str) -> str:
    """What ``istioctl manifest generate`` makes of an IstioOperator document: YAML.  It asks no cluster."""
    argv = [str(program), "manifest", "generate", "-f", "-"]
    done = subprocess.run(argv, input=settings, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise LabError("istioctl", "manifest generate", said[-1] if said else f"status {done.returncode}")
    return done.stdout


def has_istio_filters(package: Path) -> bool:
    """Whether the proxy in the package for machines is Istio's build of Envoy, with the filters that it adds."""
    argv = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        try:
            with tarfile.open(fileobj=child.stdout, mode="r|") as tar:
                for member in tar:
                    if member.isfile() and member.name.removeprefix("./") == _PROXY:
                        return _contains(tar, member)
        except tarfile.TarError as e:
            raise LabError(package.name, "look at its proxy", str(e), "testbed artifacts verify") from None
        finally:
            child.kill()
    raise LabError(package.name, "look at its proxy", f"it has no {_PROXY}", "testbed artifacts pull")


def _contains(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    source, before = tar.extractfile(member), b""
    assert source is not None  # noqa: S101 a file has content
    while chunk := source.read(_CHUNK):
        if _MARK in before + chunk:
            return True
        before = chunk[-len(_MARK) :]
    return False
