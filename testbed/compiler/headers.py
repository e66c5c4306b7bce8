"""Header operations of routes and destinations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption

from testbed.resources.virtual_service import HeaderOperations, Headers

_NOTHING = HeaderOperations()


@dataclass(frozen=True)
class HeaderChanges:
    """What Envoy is told, and the authority that was set in passing."""

    request_add: tuple[HeaderValueOption, ...] = ()
    request_remove: tuple[str, ...] = ()
    response_add: tuple[HeaderValueOption, ...] = ()
    response_remove: tuple[str, ...] = ()
    authority: str = ""

    def apply(self, target: Any) -> None:
        """Append to a route, weighted cluster or virtual host."""
        target.request_headers_to_add.extend(self.request_add)
        target.request_headers_to_remove.extend(self.request_remove)
        target.response_headers_to_add.extend(self.response_add)
        target.response_headers_to_remove.extend(self.response_remove)


def header_changes(headers: Headers | None) -> HeaderChanges:
    """Translate; ``Host`` and pseudo-headers can't be edited in Envoy, so ``Host`` becomes a rewrite."""
    if headers is None:
        return HeaderChanges()
    request, response = headers.request or _NOTHING, headers.response or _NOTHING
    return HeaderChanges(
        request_add=(*_options(request.set, append=False), *_options(request.add, append=True)),
        request_remove=tuple(k for k in request.remove if not _internal(k)),
        response_add=(*_options(response.set, append=False), *_options(response.add, append=True)),
        response_remove=tuple(k for k in response.remove if not _internal(k)),
        authority=_authority(request.set) or _authority(request.add),
    )


def _options(values: Mapping[str, str], *, append: bool) -> list[HeaderValueOption]:
    action = HeaderValueOption.APPEND_IF_EXISTS_OR_ADD if append else HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    return [
        HeaderValueOption(header=HeaderValue(key=key, value=value), append_action=action)
        for key, value in sorted(values.items())
        if not _internal(key)
    ]


def _authority(values: Mapping[str, str]) -> str:
    return next((v for k, v in sorted(values.items()) if k.lower() in (":authority", "host")), "")


def _internal(key: str) -> bool:
    return key.startswith(":") or key.lower() == "host"
