"""Which QEMU this host has, asked of the program itself: no daemon has to run for it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from testbed.errors import HostNotReady

PROGRAM = "qemu-system-x86_64"


@cache
def version() -> str:
    """Its version as it prints it, such as ``7.2.9 (Debian 1:7.2+dfsg-7+deb12u6)``."""
    found = re.search(r"version (.+)", _said("--version"))
    return found[1].strip() if found else "unknown"


@cache
def machine_type() -> str:
    """What ``pc`` stands for, such as ``pc-i440fx-7.2``."""
    found = re.search(r"^pc\s.*\(alias of (\S+)\)", _said("-machine", "help"), re.MULTILINE)
    return found[1] if found else "pc"


@cache
def processor() -> str:
    """The host's processor, as far as a guest sees it when it is passed through: model and a hash of the flags."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.+)$", text, re.MULTILINE)
    digest = hashlib.sha256((flags[1] if flags else "").encode()).hexdigest()[:12]
    return f"{model[1].strip() if model else 'unknown'} ({digest})"


def _said(*arguments: str) -> str:
    program = shutil.which(PROGRAM)
    if program is None:
        raise HostNotReady("QEMU", f"run {PROGRAM}", "it is not installed", "run: testbed doctor --fix")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False).stdout
