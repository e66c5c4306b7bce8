"""Container images from registries, by skopeo: no daemon is needed, and its own settings and logins hold."""

from __future__ import annotations

import subprocess
from pathlib import Path

from testbed.errors import HostNotReady, LabError

_LIMIT = 1800.0
"""Seconds for one image."""


def copy_image(reference: str, part: Path, *, tls: bool = True) -> None:
    """Copy the Linux amd64 image ``reference`` (``docker.io/istio/pilot:1.31.0``) into an archive.

    Raises :class:`HostNotReady` without skopeo, :class:`LabError` with its last words.  ``tls=False`` takes a
    registry without encryption.
    """
    part.unlink(missing_ok=True)  # skopeo does not overwrite an archive
    argv = ["skopeo", "--override-os", "linux", "--override-arch", "amd64", "copy", "--quiet"]
    argv += [] if tls else ["--src-tls-verify=false"]
    argv += [f"docker://{reference}", f"docker-archive:{part}:{reference}"]
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_LIMIT)
    except FileNotFoundError:
        raise HostNotReady("skopeo", "find it", "not installed", "apt-get install skopeo") from None
    except subprocess.TimeoutExpired:
        part.unlink(missing_ok=True)
        raise LabError(reference, "pull the image", f"took more than {_LIMIT:g} s", "use a mirror") from None
    if done.returncode != 0:
        part.unlink(missing_ok=True)
        said = done.stderr.strip().splitlines() or [f"skopeo ended with {done.returncode}"]
        raise LabError(reference, "pull the image", *_explained(said[-1]))


def _explained(said: str) -> tuple[str, str]:
    # time="..." level=fatal msg="..."
    message = said.partition('msg="')[2].rstrip('"').replace('\\"', '"') or said
    if "toomanyrequests" in message or "429" in message:
        advice = "wait, log in with skopeo login, or use a mirror (TESTBED_MIRROR)"
        return "the registry limits how often it is asked", advice
    return message, "check the network and the version, or use a mirror (TESTBED_MIRROR)"
