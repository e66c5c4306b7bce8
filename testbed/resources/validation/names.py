"""Names and addresses as Istio checks them (release 1.30): hosts, labels, ports, networks, expressions.

Each function returns what is wrong, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network

import re2

from testbed.documents import Path

Finding = tuple[Path, str, str]
"""Path below the document's root, what is wrong, what to write."""

_LABEL = r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?"
_DNS_LABEL = re.compile(rf"{_LABEL}")
_WILDCARD_LABEL = re.compile(rf"\*|(?:\*|\*-)?{_LABEL}")
_QUALIFIED = r"(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_KEY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*/)?{_QUALIFIED}")
_LABEL_VALUE = re.compile(rf"(?:{_QUALIFIED})?")
PROTOCOLS = {
    "tcp", "udp", "grpc", "grpc-web", "http", "http_proxy", "http2", "https", "tls", "mongo", "redis", "mysql",
}  # fmt: skip
HTTP_PROTOCOLS = {"http", "http2", "http_proxy", "grpc", "grpc-web"}
TLS_PROTOCOLS = {"https", "tls"}


def is_dns_label(text: str) -> bool:
    """RFC 1123, at most 63 characters; Istio lets capitals pass."""
    return len(text) <= 63 and _DNS_LABEL.fullmatch(text) is not None


def is_ip(text: str) -> bool:
    """An IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def domain_fault(text: str, wildcard: bool = True) -> str:
    """A DNS name; with ``wildcard``, its first label may be or begin with ``*``."""
    if not text:
        return "an empty host name"
    if len(text) > 255:
        return "a host name of more than 255 characters"
    first, _, rest = text.partition(".")
    labels = text.split(".")
    if wildcard:
        if len(first) > 63 or not _WILDCARD_LABEL.fullmatch(first):
            return f"{text!r} is no host name ({first!r} is no label)"
        labels = rest.split(".") if rest else []
    if labels and labels[-1].isdigit():
        return f"{text!r} is no host name (its last label is a number)"
    for i, label in enumerate(labels):
        if not label and i == len(labels) - 1 and i:
            break  # a trailing dot says that the name is complete
        if not is_dns_label(label):
            return f"{text!r} is no host name ({label!r} is no label)"
    return ""


def partial_wildcard(host: str) -> bool:
    """``*foo.com``: Istio wants the star to stand for whole labels."""
    return "*" in host and host != "*" and not host.startswith("*.")


def subnet_fault(text: str) -> str:
    """An address or a network, ``10.0.0.0/8``; like Go's parser it lets host bits pass."""
    try:
        if "/" not in text:
            ip_address(text)
        elif "%" in text or not text.rpartition("/")[2].isdecimal():
            return f"{text!r} is no network"
        else:
            ip_network(text, strict=False)
    except ValueError:
        return f"{text!r} is no {'network' if '/' in text else 'IP address'}"
    return ""


@lru_cache(maxsize=4096)
def regex_fault(text: str) -> str:
    """An RE2 expression of at most 1024 characters, Istio's limit."""
    if not text:
        return "an empty expression"
    if len(text) > 1024:
        return f"an expression of {len(text)} characters; Istio's limit is 1024"
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(text, options)
    except re2.error as e:
        cause = e.args[0].decode() if e.args and isinstance(e.args[0], bytes) else e
        return f"not an RE2 expression: {cause} (there are no lookarounds and no backreferences in RE2)"
    return ""


def labels_findings(labels: Mapping[str, str], at: Path) -> Iterator[Finding]:
    """Keys and values as Kubernetes has them."""
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or len(key.rpartition("/")[2]) > 63:
            yield (*at, key), f"{key!r} is no label key", "write letters, digits, '-', '_', '.'"
        if not _LABEL_VALUE.fullmatch(value) or len(value) > 63:
            message = f"{value!r} is no label value"
            yield (*at, key), message, "write letters, digits, '-', '_', '.', at most 63 characters"


def selector_findings(labels: Mapping[str, str] | None, at: Path) -> Iterator[Finding]:
    """Labels of a selector: no wildcards, at most 63 characters."""
    for key, value in (labels or {}).items():
        if not key or "*" in key or "*" in value:
            yield (
                (*at, key),
                "a selector takes no wildcard and no empty key",
                "write the workload's label",
            )
        elif len(value) > 63:
            yield (*at, key), "a label value of more than 63 characters", "shorten it"


def export_to_findings(
    export_to: tuple[str, ...], namespace: str, at: Path, nobody: bool = False
) -> Iterator[Finding]:
    """``.``, ``*``, a namespace; with ``nobody`` also ``~``, alone."""
    seen: set[str] = set()
    for i, entry in enumerate(export_to):
        meant = namespace if entry == "." else entry
        if meant in seen:
            yield (*at, i), f"exportTo has {entry!r} twice ('.' is this namespace)", "keep one of them"
        seen.add(meant)
        if entry == "~" and not nobody:
            yield (*at, i), "exportTo '~' (nobody) is for ServiceEntry only", "write '.' or a namespace"
        elif entry not in (".", "*", "~") and not is_dns_label(entry):
            yield (*at, i), f"{entry!r} is no namespace", "write '.', '*' or the name of a namespace"
    for alone in ("*", "~"):
        if alone in seen and len(export_to) > 1:
            yield at, f"exportTo has {alone!r} and others", f"keep {alone!r} alone, or leave it out"


def gateway_name_findings(names: Iterable[str], at: Path) -> Iterator[Finding]:
    """``name``, ``namespace/name`` or ``mesh``; the older ``name.namespace.svc…`` passes."""
    for i, name in enumerate(names):
        namespace, slash, rest = name.partition("/")
        if not slash:
            if fault := domain_fault(name, wildcard=False):
                yield (*at, i), fault, "write namespace/name"
        elif not (is_dns_label(namespace) and is_dns_label(rest)):
            yield (*at, i), f"{name!r} names no gateway", "write namespace/name"


def host_matches(one: str, other: str) -> bool:
    """Whether there is a name that both stand for."""
    if one.startswith("*") and other.startswith("*"):
        short, long = sorted((one, other), key=len)
        return long[1:].endswith(short[1:])
    if one.startswith("*"):
        return other.endswith(one[1:])
    return one.endswith(other[1:]) if other.startswith("*") else one == other


def host_subset(inner: str, outer: str) -> bool:
    """Whether every name that ``inner`` stands for is one of ``outer``'s."""
    if inner.startswith("*"):
        return outer.startswith("*") and len(inner) >= len(outer) and inner[1:].endswith(outer[1:])
    return inner.endswith(outer[1:]) if outer.startswith("*") else inner == outer
