"""Names as Istio makes them: clusters, hosts that match hosts, and what a virtual host answers to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

PASSTHROUGH = "PassthroughCluster"
BLACKHOLE = "BlackHoleCluster"
INBOUND_PASSTHROUGH = "InboundPassthroughCluster"


def outbound_cluster(host: str, port: int, subset: str = "") -> str:
    """``outbound|port|subset|host``."""
    return f"outbound|{port}|{subset}|{host}"


def outbound_sni(host: str, port: int, subset: str = "") -> str:
    """The server name of mesh TLS, ``outbound_.port_.subset_.host``."""
    return f"outbound_.{port}_.{subset}_.{host}"


def inbound_cluster(port: int) -> str:
    """``inbound|port||``; the port is the one that the workload listens on."""
    return f"inbound|{port}||"


def listener_name(address: str, port: int) -> str:
    """``address_port``."""
    return f"{address}_{port}"


def qualified(host: str, namespace: str) -> str:
    """A short name (no dot) in full; names with a dot and wildcards are taken as they are, as Istio does."""
    if not host or "." in host or "*" in host:
        return host.lower()
    return f"{host}.{namespace}.svc.cluster.local".lower()


def qualified_gateway(name: str, namespace: str) -> str:
    """A gateway reference as ``namespace/name``; ``mesh`` stays.

    istiod still reads the old forms ``name.namespace`` and a host under ``svc.cluster.local``.
    """
    if name == "mesh" or "/" in name:
        return f"{namespace}/{name[2:]}" if name.startswith("./") else name
    if "." in name:
        gateway, _, rest = name.partition(".")
        return f"{rest.partition('.')[0]}/{gateway}"
    return f"{namespace}/{name}"


def is_wildcard(host: str) -> bool:
    """Whether the name begins with ``*``."""
    return host.startswith("*")


def matches(host: str, other: str) -> bool:
    """Whether two names, either of which may be a wildcard, have a host in common (``host.Name.Matches``)."""
    if is_wildcard(host):
        if is_wildcard(other):
            longer, shorter = (host, other) if len(host) >= len(other) else (other, host)
            return longer[1:].endswith(shorter[1:])
        return other.endswith(host[1:])
    if is_wildcard(other):
        return host.endswith(other[1:])
    return host == other


def is_subset(host: str, other: str) -> bool:
    """Whether every host under ``host`` is under ``other`` too (``host.Name.SubsetOf``)."""
    if is_wildcard(host):
        return is_wildcard(other) and len(host) >= len(other) and host[1:].endswith(other[1:])
    return host.endswith(other[1:]) if is_wildcard(other) else host == other


def most_specific(host: str, exact: Mapping[str, Value], wildcard: Mapping[str, Value]) -> Value | None:
    """The entry for ``host``: its own, else that of the longest wildcard that covers it."""
    if host in exact:
        return exact[host]
    best = max((w for w in wildcard if is_subset(host, w)), key=lambda w: (len(w), w), default=None)
    return None if best is None else wildcard[best]


_KUBERNETES = re.compile(r"^([^.]+)\.([^.]+)\.svc\.cluster\.local$")


def domains(host: str, addresses: Iterable[str], client_namespace: str) -> list[str]:
    """What a service's virtual host answers to for clients in a namespace.

    The port is not part of it: Istio sets ``ignore_port_in_host_matching``.  The short names are those that
    resolve for the client: ``name`` only within the service's namespace.
    """
    found = [host, f"{host}."]
    if match := _KUBERNETES.match(host):
        name, namespace = match[1], match[2]
        if namespace == client_namespace:
            found.append(name)
        found += [f"{name}.{namespace}.svc", f"{name}.{namespace}"]
    return found + [a for a in addresses if a and a != "0.0.0.0"]  # noqa: S104 - the absence of an address
