"""Which listener takes a connection, and which of its filter chains.

Envoy narrows the chains down criterion by criterion, in this order: destination port, destination address,
server name, transport protocol, application protocol, source.  At each one the most specific that matches
stays and the rest goes for good: there is no way back to a chain that lost an earlier criterion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.compiler.simulator.matching import in_block
from testbed.compiler.simulator.proxy import SimulatedProxy, unpack
from testbed.compiler.simulator.request import Connection

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 (compared, not bound)
OUTBOUND_PORT, INBOUND_PORT = 15001, 15006
TLS_INSPECTOR = "envoy.filters.listener.tls_inspector"
HTTP_INSPECTOR = "envoy.filters.listener.http_inspector"

_MAX_NAME = 1 << 20


@dataclass(frozen=True)
class Chain:
    """A filter chain, ready to be walked."""

    listener: str
    message: Any

    @property
    def name(self) -> str:
        """Its name; Envoy needs none."""
        return str(self.message.name)

    @property
    def filters(self) -> Sequence[tuple[str, Any]]:
        """Network filters by name, unpacked."""
        return [(f.name, unpack(f.typed_config)) for f in self.message.filters]

    @property
    def tls(self) -> Any | None:
        """The DownstreamTlsContext of a chain that terminates TLS."""
        if not self.message.HasField("transport_socket"):
            return None
        context = unpack(self.message.transport_socket.typed_config)
        return context if context.DESCRIPTOR.name == "DownstreamTlsContext" else None


def outbound_listener(proxy: SimulatedProxy, connection: Connection) -> Any | None:
    """What a redirected connection reaches: the listener of its address, of its port, or the virtual one."""
    return _handed_over(proxy, connection, OUTBOUND_PORT)


def inbound_listener(proxy: SimulatedProxy, connection: Connection) -> Any | None:
    """What a connection from outside reaches: a gateway's own listener, else the virtual inbound one."""
    for listener in proxy.listeners:
        address = listener.address.socket_address
        bound = not listener.HasField("bind_to_port") or listener.bind_to_port.value
        if bound and address.port_value == connection.port and address.port_value not in (15001, 15006):
            return listener
    return _handed_over(proxy, connection, INBOUND_PORT)


def _handed_over(proxy: SimulatedProxy, connection: Connection, port: int) -> Any | None:
    virtual = None
    by_port = None
    for listener in proxy.listeners:
        address = listener.address.socket_address
        if address.port_value == port:
            virtual = listener
        elif address.port_value == connection.port and _is_unbound(listener):
            if address.address == str(connection.destination):
                return listener
            if address.address == ANY_ADDRESS:
                by_port = by_port or listener
    if virtual is not None and not virtual.use_original_dst.value:
        return virtual  # a virtual inbound listener: its chains match the original port themselves
    return by_port or virtual


def _is_unbound(listener: Any) -> bool:
    return listener.HasField("bind_to_port") and not listener.bind_to_port.value


def filter_chain(listener: Any, connection: Connection, speaks_http: bool) -> Chain | None:
    """The chain that takes the connection; ``None``: Envoy closes it."""
    seen = _inspected(listener, connection, speaks_http)
    chains: list[Any] = list(listener.filter_chains)
    for narrow in (_by_port, _by_address, _by_server_name, _by_transport, _by_application, _by_source):
        chains = narrow(chains, connection, seen)
    if chains:
        return Chain(listener.name, chains[0])
    if listener.HasField("default_filter_chain"):
        return Chain(listener.name, listener.default_filter_chain)
    return None


@dataclass(frozen=True)
class _Seen:
    """What the listener filters found out."""

    transport: str
    server_name: str
    applications: tuple[str, ...]


def _inspected(listener: Any, connection: Connection, speaks_http: bool) -> _Seen:
    active = {f.name for f in listener.listener_filters if not _disabled(f, connection)}
    if connection.tls and TLS_INSPECTOR in active:
        return _Seen("tls", connection.sni.lower(), connection.alpn)
    http = ("http/1.1",) if speaks_http and not connection.tls and HTTP_INSPECTOR in active else ()
    return _Seen("raw_buffer", "", http)


def _disabled(listener_filter: Any, connection: Connection) -> bool:
    return listener_filter.HasField("filter_disabled") and _holds(listener_filter.filter_disabled, connection)


def _holds(predicate: Any, connection: Connection) -> bool:
    match predicate.WhichOneof("rule"):
        case "or_match":
            return any(_holds(p, connection) for p in predicate.or_match.rules)
        case "and_match":
            return all(_holds(p, connection) for p in predicate.and_match.rules)
        case "not_match":
            return not _holds(predicate.not_match, connection)
        case "destination_port_range":
            wanted = predicate.destination_port_range
            return bool(wanted.start <= connection.port < wanted.end)
    return bool(predicate.any_match)


def _best(chains: Iterable[Any], rank: Callable[[Any], int | None]) -> list[Any]:
    """The chains of the highest rank; ``None``: the chain doesn't match at all."""
    ranked = [(rank(c), c) for c in chains]
    top = max((r for r, _ in ranked if r is not None), default=None)
    return [c for r, c in ranked if r is not None and r == top]


def _by_port(chains: list[Any], connection: Connection, seen: _Seen) -> list[Any]:
    def rank(chain: Any) -> int | None:
        match = chain.filter_chain_match
        if not match.HasField("destination_port"):
            return 0
        return 1 if match.destination_port.value == connection.port else None

    return _best(chains, rank)


def _by_address(chains: list[Any], connection: Connection, seen: _Seen) -> list[Any]:
    def rank(chain: Any) -> int | None:
        ranges = chain.filter_chain_match.prefix_ranges
        if not ranges:
            return -1
        return max((r.prefix_len.value for r in ranges if in_block(r, connection.destination)), default=None)

    return _best(chains, rank)


def _by_server_name(chains: list[Any], connection: Connection, seen: _Seen) -> list[Any]:
    def rank(chain: Any) -> int | None:
        names = chain.filter_chain_match.server_names
        if not names:
            return -1
        return max((r for n in names if (r := _name_rank(n, seen.server_name)) is not None), default=None)

    return _best(chains, rank)


def _name_rank(pattern: str, name: str) -> int | None:
    if pattern == name:
        return _MAX_NAME
    return len(pattern) if pattern.startswith("*.") and name.endswith(pattern[1:]) else None


def _by_transport(chains: list[Any], connection: Connection, seen: _Seen) -> list[Any]:
    def rank(chain: Any) -> int | None:
        wanted = chain.filter_chain_match.transport_protocol
        return 0 if not wanted else 1 if wanted == seen.transport else None

    return _best(chains, rank)


def _by_application(chains: list[Any], connection: Connection, seen: _Seen) -> list[Any]:
    def rank(chain: Any) -> int | None:
        wanted = chain.filter_chain_match.application_protocols
        if not wanted:
            return 0
        # the caller's first protocol that some chain takes decides
        places = [len(seen.applications) - i for i, a in enumerate(seen.applications) if a in wanted]
        return max(places, default=None)

    return _best(chains, rank)


def _by_source(chains: list[Any], connection: Connection, seen: _Seen) -> list[Any]:
    def rank(chain: Any) -> int | None:
        ranges = chain.filter_chain_match.source_prefix_ranges
        if not ranges:
            return -1
        return max((r.prefix_len.value for r in ranges if in_block(r, connection.source)), default=None)

    return _best(chains, rank)
