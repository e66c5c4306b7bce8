"""Programs and libraries that come as Debian packages; ``packages.txt`` says which and why."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import HostNotReady
from testbed.host.finding import Finding, Level

_LIST = Path(__file__).resolve().parents[1] / "packages.txt"
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RELEASES = {("debian", "12"), ("debian", "13"), ("ubuntu", "24.04")}


@dataclass(frozen=True)
class Package:
    """A Debian package, what shows that it is there (``-``: only dpkg knows), and why it is needed."""

    name: str
    witness: str
    why: str


def packages() -> list[Package]:
    """The packages of ``packages.txt``, in its order."""
    found = []
    for line in _LIST.read_text().splitlines():
        name, _, reason = line.partition("#")
        if name:
            witness, _, why = reason.strip().partition(": ")
            found.append(Package(name.strip(), witness, why))
    return found


def required_packages(os_release: Mapping[str, str]) -> list[str]:
    """Names to install on a host with this ``os-release``.  Raises HostNotReady where the names are not known."""
    kinds = {os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()}
    if not kinds & {"debian", "ubuntu"}:
        name = os_release.get("PRETTY_NAME", "this host")
        tested = "Debian 12, Debian 13 or Ubuntu 24.04"
        raise HostNotReady(
            name, "install packages", f"package names are known for {tested} only", "use such a host"
        )
    return [p.name for p in packages()]


def read_os_release(file: Path = Path("/etc/os-release")) -> dict[str, str]:
    """The fields of os-release(5); empty if there is no such file."""
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {key: value.strip("\"'") for key, _, value in pairs}


def probe() -> list[Finding]:
    """The release, Python, and one finding for each package."""
    return [_release(read_os_release()), *_python(), *(_package(p) for p in packages())]


def _release(release: Mapping[str, str]) -> Finding:
    why = "package names and paths are tried on Debian 12, Debian 13 and Ubuntu 24.04"
    name = release.get("PRETTY_NAME", "unknown")
    known = (release.get("ID"), release.get("VERSION_ID")) in _RELEASES
    return Finding("release", Level.OK if known else Level.WARNING, name, why, "" if known else "use one of these")


def _python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    findings = [
        Finding(
            "Python",
            Level.OK if fine else Level.MISSING,
            version,
            "Testbed is written for Python 3.11 and later",
            "" if fine else "make the virtual environment with a newer Python: make PYTHON=python3.11 up",
        )
    ]
    there = importlib.util.find_spec("libvirt") is not None
    findings.append(
        Finding(
            "libvirt-python",
            Level.OK if there else Level.MISSING,
            "installed" if there else "not in this virtual environment",
            "Testbed speaks to libvirt through it",
            "" if there else f"{sys.executable} -m pip install libvirt-python",
        )
    )
    return findings


def _package(package: Package) -> Finding:
    if _is_there(package):
        return Finding(package.name, Level.OK, "installed", package.why)
    mend = f"apt-get install {package.name}"
    return Finding(package.name, Level.MISSING, "not installed", package.why, mend, package=package.name)


def _is_there(package: Package) -> bool:
    if package.witness.startswith("/"):
        return Path(package.witness).exists()
    if package.witness != "-":
        return shutil.which(package.witness, path=_SEARCH) is not None
    if shutil.which("dpkg-query") is None:
        return True  # not a Debian: nobody to ask
    asked = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package.name]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout == "installed"
