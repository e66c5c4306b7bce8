"""A request as the simulator follows it: what a program sends, and what each proxy makes of it on the way."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

from testbed.compiler.simulator.matching import Address
from testbed.errors import bad_input

_PORTS = {"http": 80, "https": 443, "grpc": 80}
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(?:\[([0-9a-fA-F:.]+)\]|([^/?#:\[\]@]+))(?::([0-9]{1,5}))?([/?#].*)?")


@dataclass(frozen=True)
class Http:
    """An HTTP request at one place of its way; pseudo headers under their names, all names in lower case."""

    headers: Mapping[str, str]
    alpn: tuple[str, ...] = ()
    """What the proxy that it goes through offers by TLS to the next one, instead of its cluster's own."""

    @property
    def host(self) -> str:
        """The authority that was asked for, port and all."""
        return self.headers.get(":authority", "")

    @property
    def method(self) -> str:
        """GET, POST, ..."""
        return self.headers.get(":method", "GET")

    @cached_property
    def path(self) -> str:
        """The path without query and fragment."""
        return self.headers.get(":path", "/").partition("?")[0].partition("#")[0]

    @cached_property
    def parameters(self) -> Mapping[str, Sequence[str]]:
        """The query's parameters, not decoded (as Envoy's routes see them); a name's values keep their order."""
        found: dict[str, list[str]] = {}
        query = self.headers.get(":path", "").partition("#")[0].partition("?")[2]
        for part in query.split("&") if query else ():
            name, _, value = part.partition("=")
            found.setdefault(name, []).append(value)
        return found

    @cached_property
    def cookies(self) -> Mapping[str, str]:
        """The request's cookies; the first of a name counts."""
        found: dict[str, str] = {}
        for part in self.headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            found.setdefault(name, value.strip('"'))
        return found

    @property
    def is_cors_preflight(self) -> bool:
        """An OPTIONS request by which a browser asks whether it may."""
        asked = "origin" in self.headers and "access-control-request-method" in self.headers
        return self.method == "OPTIONS" and asked

    def with_header(self, name: str, value: str) -> Http:
        """The request with a header set."""
        return Http({**self.headers, name.lower(): value})

    def without_header(self, name: str) -> Http:
        """The request without a header."""
        return Http({k: v for k, v in self.headers.items() if k != name.lower()})


@dataclass(frozen=True)
class SimulatedRequest:
    """A request that nobody sends.

    ``source`` is the workload that would send it; a gateway there means that the request reaches it from
    outside, from ``source_address``.  ``time`` (seconds since 1970) decides whether tokens have expired.
    """

    source: str
    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    time: float = 0.0
    source_address: str = "203.0.113.1"

    def __post_init__(self) -> None:
        found = _URL.fullmatch(self.url)
        if found is None or int(found[4] or 0) > 65535:
            raise ValueError(f"{self.url!r} is no URL")

    @cached_property
    def _parts(self) -> tuple[str, str, int, str]:
        found = _URL.fullmatch(self.url)
        assert found is not None  # noqa: S101 (checked when it was made)
        scheme, address, name, port, rest = found.groups()
        return scheme, address or name, int(port or _PORTS.get(scheme, 0)), rest or ""

    @property
    def scheme(self) -> str:
        """``http``, ``https`` (the program's own TLS), ``grpc`` or ``tcp``."""
        return self._parts[0]

    @property
    def host(self) -> str:
        """The name or address in the URL."""
        return self._parts[1]

    @property
    def port(self) -> int:
        """The URL's port, or its scheme's; 0 for none."""
        return self._parts[2]

    def http(self) -> Http:
        """The request as its program would write it: a default port is not named in the authority."""
        rest = self._parts[3].partition("#")[0]
        path = rest if rest.startswith("/") else f"/{rest}"
        default = self.port == _PORTS.get(self.scheme)
        authority = self.host if default else f"{self.host}:{self.port}"
        headers = {":method": self.method, ":path": path, ":authority": authority, ":scheme": "http"}
        for name, value in self.headers.items():
            headers[":authority" if name.lower() == "host" else name.lower()] = value
        if self.scheme == "grpc":
            headers |= {":method": "POST", "content-type": "application/grpc", "te": "trailers"}
        return Http(headers)


def parse_request(
    source: str, url: str, method: str = "GET", headers: Sequence[str] = (), time: float = 0.0
) -> SimulatedRequest:
    """A request from a command line: headers as ``Name: value``, a URL whose scheme may be left out."""
    pairs: dict[str, str] = {}
    for text in headers:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise bad_input("-H", f"{text!r} is no header", "write it as 'Name: value'")
        pairs[name.strip()] = value.strip()
    full = url if "://" in url else f"http://{url}"
    try:
        request = SimulatedRequest(source, full, method.upper(), MappingProxyType(pairs), time)
        if request.scheme not in ("http", "https", "grpc", "tcp") or not request.host or not request.port:
            raise ValueError("expected http, https, grpc or tcp, a host, and for tcp a port")
    except ValueError as e:
        raise bad_input(
            "URL", f"{url!r} can't be asked: {e}", "write it as http://reviews:9080/reviews/1"
        ) from None
    return request


@dataclass(frozen=True)
class Connection:
    """A connection as it reaches a proxy."""

    source: Address
    destination: Address
    port: int
    tls: bool = False
    alpn: tuple[str, ...] = ()
    sni: str = ""
    identity: str = ""
    """The caller's SPIFFE name, when it has shown a certificate."""

    def plain(self) -> Connection:
        """The same without TLS."""
        return replace(self, tls=False, alpn=(), sni="", identity="")
