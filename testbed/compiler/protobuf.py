"""Envoy's messages to stable bytes.

A *fragment* is one rendered message: an element of a file, or a file's only resource.  Fragments are rendered
once, kept, and joined into as many files as contain them; a file's version is computed from the digests of its
fragments, so equal content has an equal version whatever the order of work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import any_pb2, duration_pb2, json_format, struct_pb2, wrappers_pb2
from google.protobuf.message import Message

from testbed.model.proxy import XdsFile, content_hash

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


@dataclass(frozen=True, slots=True)
class Fragment:
    """A rendered message: JSON without white space, keys sorted."""

    name: str
    content: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class Fragments:
    """Fragments that go into files together, with one digest for all."""

    items: tuple[Fragment, ...]
    digest: str

    @classmethod
    def of(cls, items: Iterable[Fragment]) -> Fragments:
        """Put them together."""
        found = tuple(items)
        return cls(found, content_hash(*(f.digest for f in found)))


def packed(message: Message) -> any_pb2.Any:
    """The message in an ``Any``, packed deterministically (map entries sorted)."""
    result = any_pb2.Any()
    result.Pack(message, deterministic=True)
    return result


def duration(seconds: float) -> duration_pb2.Duration:
    """Seconds, exact to the nanosecond that they round to."""
    nanoseconds = round(seconds * 1e9)
    return duration_pb2.Duration(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


def u32(value: int) -> wrappers_pb2.UInt32Value:
    """A wrapped unsigned number, for fields where absent and zero differ."""
    return wrappers_pb2.UInt32Value(value=value)


def u64(value: int) -> wrappers_pb2.UInt64Value:
    """The same, 64 bits wide."""
    return wrappers_pb2.UInt64Value(value=value)


def boolean(value: bool) -> wrappers_pb2.BoolValue:
    """A wrapped boolean."""
    return wrappers_pb2.BoolValue(value=value)


def struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """A mapping as a ``Struct``."""
    result = struct_pb2.Struct()
    result.update(values)
    return result


def as_json(message: Message) -> dict[str, Any]:
    """The message in Envoy's JSON, fields under their proto names."""
    value: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return value


def dumps(value: object) -> bytes:
    """JSON with sorted keys and no white space: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fragment(name: str, message: Message, type_url: str = "") -> Fragment:
    """Render a message; with ``type_url``, as it stands in a discovery response."""
    value = as_json(message)
    if type_url:
        value["@type"] = type_url
    content = dumps(value)
    return Fragment(name, content, content_hash(content))


def with_elements(outer: Fragment, field: str, elements: Sequence[Fragment]) -> Fragment:
    """``outer`` (an object) with the repeated ``field`` filled from elements that are rendered already."""
    joined = b",".join(e.content for e in elements)
    content = b'{"%s":[%s],%s' % (field.encode(), joined, outer.content[1:])
    return Fragment(outer.name, content, content_hash(outer.digest, field, *(e.digest for e in elements)))


def discovery_file(
    path: str, type_url: str, parts: Sequence[Fragments], marks: Mapping[bytes, bytes] | None = None
) -> XdsFile:
    """A ``DiscoveryResponse`` file; ``marks`` are replaced in its content (see ``layout``)."""
    marks = marks or {}
    resources = [item for part in parts for item in part.items]
    version = content_hash(type_url, *(p.digest for p in parts), *marks.values())
    content = b'{"resources":[%s],"type_url":"%s","version_info":"%s"}\n' % (
        b",".join(r.content for r in resources),
        type_url.encode(),
        version.encode(),
    )
    for mark, value in marks.items():
        content = content.replace(mark, value)
    return XdsFile(path, type_url, tuple(r.name for r in resources), version, content)
