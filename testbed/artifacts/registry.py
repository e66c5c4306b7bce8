"""Container images from registries, by skopeo: no daemon is needed, and its own settings and logins hold."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from testbed.artifacts.signatures import (
    BUNDLE_TYPE,
    SIGNATURE_ANNOTATION,
    Signed,
    bundled,
    is_signed,
    simple_signing,
)
from testbed.errors import HostNotReady, LabError
from testbed.host.download import NotFound

_LIMIT = 1800.0
"""Seconds for one image."""


def copy_image(reference: str, part: Path, keys: Sequence[str] = (), *, tls: bool = True) -> None:
    """Copy the Linux amd64 image ``reference`` (``docker.io/istio/pilot:1.31.0``) into an archive.

    With ``keys``, public ones in PEM, what the reference names must be signed with one of them by Cosign, and no
    other manifest is copied.  Raises :class:`HostNotReady` without skopeo, :class:`LabError` with its last words,
    or when there is no such signature.  ``tls=False`` takes a registry without encryption.
    """
    registry = _Registry(reference, tls)
    part.unlink(missing_ok=True)  # skopeo does not overwrite an archive
    source = reference
    if keys:
        digest = registry.digest()
        registry.require_signed(digest, keys)
        source = f"{registry.repository}@{digest}"
    try:
        registry.skopeo("copy", source, f"docker-archive:{part}:{reference}")
    except LabError:
        part.unlink(missing_ok=True)
        raise


class _Registry:
    """What lies at one image's place and beside it."""

    def __init__(self, reference: str, tls: bool) -> None:
        self._reference = reference
        self._tls = tls
        path, _, last = reference.rpartition("/")
        self.repository = f"{path}/{last.partition(':')[0]}"

    def digest(self) -> str:
        """The digest of the manifest, or of the index of several, that the reference names."""
        return "sha256:" + hashlib.sha256(self.skopeo("inspect", self._reference)).hexdigest()

    def require_signed(self, digest: str, keys: Sequence[str]) -> None:
        """Raise :class:`LabError` unless the manifest is signed with one of the keys."""
        found = tuple(self._signatures(digest))
        try:
            if any(is_signed(digest, found, key) for key in keys):
                return
        except ValueError as e:
            raise LabError(
                self._reference, "read its project's keys", str(e), "check constraints/releases.yaml"
            ) from None
        has = f"none of the {len(found)} signatures" if found else "no signature"
        raise LabError(
            self._reference, "check the image's signature",
            f"{has} in its registry is of {digest[:19]}… with a key of its project",
            "if the registry is a copy of the project's, copy signatures, too; or use a mirror (TESTBED_MIRROR)",
        )  # fmt: skip

    def _signatures(self, digest: str) -> Iterator[Signed]:
        tag = f"{self.repository}:{digest.replace(':', '-')}"
        for payload, layer in self._layers(f"{tag}.sig"):
            if signature := (layer.get("annotations") or {}).get(SIGNATURE_ANNOTATION):
                yield from _signed(simple_signing, payload, signature)
        try:
            referring = json.loads(self.skopeo("inspect", tag))
        except NotFound:
            return
        for manifest in referring.get("manifests") or []:
            for blob, layer in self._layers(f"{self.repository}@{manifest['digest']}"):
                if str(layer.get("mediaType")).startswith(BUNDLE_TYPE):
                    yield from _signed(bundled, blob)

    def _layers(self, reference: str) -> list[tuple[bytes, dict[str, Any]]]:
        """An artifact's blobs, and what its manifest says of each; nothing when there is none."""
        with TemporaryDirectory(prefix="testbed-") as folder:
            try:
                self.skopeo("copy", reference, f"dir:{folder}")
            except NotFound:
                return []
            layers = json.loads((Path(folder) / "manifest.json").read_bytes()).get("layers") or []
            return [((Path(folder) / layer["digest"].partition(":")[2]).read_bytes(), layer) for layer in layers]

    def skopeo(self, command: str, source: str, *rest: str) -> bytes:
        """Copy, or inspect the raw manifest of, ``source``.  Raises :class:`NotFound` when nothing is there."""
        of_source = "--src-tls-verify" if command == "copy" else "--tls-verify"
        how = "--quiet" if command == "copy" else "--raw"
        argv = ["skopeo", "--override-os", "linux", "--override-arch", "amd64", command, how]
        argv += [] if self._tls else [f"{of_source}=false"]
        argv += [f"docker://{source}", *rest]
        try:
            done = subprocess.run(argv, check=False, capture_output=True, timeout=_LIMIT)
        except FileNotFoundError:
            raise HostNotReady("skopeo", "find it", "not installed", "apt-get install skopeo") from None
        except subprocess.TimeoutExpired:
            cause = f"took more than {_LIMIT:g} s"
            raise LabError(self._reference, "pull the image", cause, "use a mirror") from None
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            said = lines[-1] if lines else f"skopeo ended with {done.returncode}"
            kind = NotFound if any(word in said for word in _NOTHING_THERE) else LabError
            raise kind(self._reference, "pull the image", *_explained(said))
        return done.stdout


def _signed(read: Callable[..., tuple[Signed, ...]], *what: bytes | str) -> tuple[Signed, ...]:
    """What was read; nothing of what is no image's signature, but an attestation, say."""
    try:
        return read(*what)
    except ValueError:
        return ()


_NOTHING_THERE = ("manifest unknown", "name unknown", "StatusCode: 404", "404 (Not Found)")
"""What skopeo says of a registry that has no such tag."""


def _explained(said: str) -> tuple[str, str]:
    # time="..." level=fatal msg="..."
    message = said.partition('msg="')[2].rstrip('"').replace('\\"', '"') or said
    if "toomanyrequests" in message or "429" in message:
        advice = "wait, log in with skopeo login, or use a mirror (TESTBED_MIRROR)"
        return "the registry limits how often it is asked", advice
    return message, "check the network and the version, or use a mirror (TESTBED_MIRROR)"
