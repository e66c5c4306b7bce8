"""What the peers are made of: Debian packages by name, and kcli from where pip finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from peers.kcli import Kcli
from testbed.host.directories import testbed_home


def packages(text: str) -> list[str]:
    """The names in a list of packages, one a line, with a remark behind a #."""
    return [name for line in text.splitlines() if (name := line.partition("#")[0].strip())]


def install() -> list[str]:
    """Install what is missing; what could not be, each with its cause."""
    home = testbed_home()
    wanted = packages((home / "benchmarks" / "packages.txt").read_text())
    python = str(Kcli.environment() / "bin" / "python")
    pinned = str(home / "constraints" / "peers.txt")
    steps = [
        ["apt-get", "update", "--quiet"],
        ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *wanted],
        [sys.executable, "-m", "venv", str(Kcli.environment())],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", pinned, "kcli"],
    ]
    return [trouble for step in steps if (trouble := _trouble(step))]


def _trouble(command: list[str]) -> str:
    try:
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    except OSError as e:
        return f"{Path(command[0]).name}: {e}"
    said = (done.stderr or done.stdout).strip().splitlines()[-1:]
    return f"{' '.join(command[:4])} …: {' '.join(said)}" if done.returncode else ""
