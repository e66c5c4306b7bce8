"""Files that TLS settings name.  Envoy refuses all of its clusters or listeners for one that is not there.

istiod hands such files out as secrets, so that only the one destination or server waits for them; here they are
asked for before anything is pushed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.compiler.upstreamtls import SYSTEM_ROOTS
from testbed.documents import Path
from testbed.errors import BadInput, Location, Problem
from testbed.model.proxy import XdsFile
from testbed.resources import ResourceSet

_FIELDS = {"clientCertificate", "serverCertificate", "privateKey", "caCertificates", "caCrl"}
_LISTS = ("cds.json", "lds.json")


@dataclass(frozen=True)
class NamedFile:
    """A file that has to be on the nodes of the proxies that are told of it."""

    path: str
    location: Location
    """Of the setting that names it."""


def named_files(resources: ResourceSet) -> list[NamedFile]:
    """The files that TLS settings name, each with the first setting that does."""
    found: dict[str, NamedFile] = {}
    for resource in (*resources.destination_rules, *resources.gateways, *resources.sidecars):
        for path, name in _named(resource.to_plain().get("spec", {}), ("spec",)):
            found.setdefault(name, NamedFile(name, resource.locate(*path)))
    return list(found.values())


def _named(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, Mapping):
        if value.get("mode") in ("SIMPLE", "MUTUAL") and not {"caCertificates", "credentialName"} & value.keys():
            yield path, SYSTEM_ROOTS
        for key, inner in value.items():
            if key in _FIELDS and isinstance(inner, str) and inner.startswith("/"):
                yield (*path, key), inner
            yield from _named(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _named(inner, (*path, index))


def needed_by(held: Mapping[str, XdsFile], files: Collection[NamedFile]) -> list[str]:
    """The paths of those of ``files`` that a proxy is told of."""
    texts = [held[name].content for name in _LISTS if name in held]
    return [f.path for f in files if any(f'"{f.path}"'.encode() in text for text in texts)]


def missing_command(paths: Collection[str]) -> list[str]:
    """Prints those of ``paths`` that are not there, each ended by a NUL."""
    return ["bash", "-c", """for f; do [ -f "$f" ] || printf '%s\\0' "$f"; done""", "-", *paths]


def missing(said: Mapping[str, bytes], files: Collection[NamedFile]) -> BadInput | None:
    """What is wrong, from what each node printed; nothing when all is there."""
    places: dict[str, list[str]] = {}
    for node in sorted(said):
        for path in filter(None, said[node].decode().split("\0")):
            places.setdefault(path, []).append(node)
    problems = [
        Problem(
            f.location,
            f"there is no file {f.path} on {', '.join(places[f.path])}",
            "put it there, or use credentialName",
        )
        for f in files
        if f.path in places
    ]
    return BadInput(problems) if problems else None
