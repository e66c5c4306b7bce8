"""Istio's way of writing matches (exact, ``prefix*``, ``*suffix``, ``*``), as Envoy's matchers.

A lone ``*`` means "present": Envoy takes no empty prefix or suffix, so it becomes the expression ``.+``
for text and a presence match for headers, as istiod has it (pilot/pkg/security/authz/matcher).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_network

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.path.match.uri_template.v3.uri_template_match_pb2 import UriTemplateMatchConfig
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ListMatcher, OrMatcher, ValueMatcher

JWT_FILTER = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD = "payload"
"""Where the jwt_authn filter lays a verified token's claims: filter and key of the dynamic metadata."""

_RE2_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")


def quoted(text: str) -> str:
    """``text`` as a regular expression that matches it literally (Go's QuoteMeta: Python's escapes too much)."""
    return _RE2_SPECIAL.sub(r"\\\1", text)


def regex(expression: str) -> StringMatcher:
    """A full match of an RE2 expression."""
    return StringMatcher(safe_regex=RegexMatcher(regex=expression))


def text(value: str, prefix: str = "", ignore_case: bool = False) -> StringMatcher:
    """Match text; ``prefix`` stands before the value in what is matched (``spiffe://`` of identities)."""
    if value == "*":
        return regex(".+")
    if value.startswith("*"):
        if prefix:
            return regex(f"{prefix}.*{quoted(value[1:])}")
        return StringMatcher(suffix=value[1:], ignore_case=ignore_case)
    if value.endswith("*"):
        return StringMatcher(prefix=prefix + value[:-1], ignore_case=ignore_case)
    return StringMatcher(exact=prefix + value, ignore_case=ignore_case)


def header(name: str, value: str, ignore_case: bool = False) -> HeaderMatcher:
    """Match a header; hosts are compared without regard to case, all else with."""
    if value == "*":
        return HeaderMatcher(name=name, present_match=True)
    return HeaderMatcher(name=name, string_match=text(value, ignore_case=ignore_case))


def cidr(value: str) -> CidrRange:
    """An address or a block (``10.0.0.0/8``).  Raises :class:`ValueError` when it is neither."""
    network = ip_network(value, strict=False)
    block = CidrRange(address_prefix=str(network.network_address))
    block.prefix_len.value = network.prefixlen
    return block


def is_path_template(value: str) -> bool:
    """Whether a path uses ``{*}`` (one segment) or ``{**}`` (the rest)."""
    return "{*}" in value or "{**}" in value


def path_template(value: str) -> UriTemplateMatchConfig:
    """A path with ``{*}`` and ``{**}`` in Envoy's spelling of URI templates, ``*`` and ``**``."""
    return UriTemplateMatchConfig(path_template=value.replace("{**}", "**").replace("{*}", "*"))


def one_of(matchers: Sequence[ValueMatcher]) -> ValueMatcher:
    """Any of several value matchers."""
    return matchers[0] if len(matchers) == 1 else ValueMatcher(or_match=OrMatcher(value_matchers=matchers))


def metadata(filter_name: str, path: Sequence[str], value: ValueMatcher) -> MetadataMatcher:
    """Match a value of dynamic metadata by the keys that lead to it."""
    segments = [MetadataMatcher.PathSegment(key=key) for key in path]
    return MetadataMatcher(filter=filter_name, path=segments, value=value)


def claim_text(claim: str, matcher: StringMatcher) -> MetadataMatcher:
    """Match a claim that is a text."""
    return metadata(JWT_FILTER, [JWT_PAYLOAD, claim], ValueMatcher(string_match=matcher))


def claim(path: Sequence[str], values: Sequence[str]) -> MetadataMatcher:
    """Match a claim, nested by ``path``, that is one of ``values`` or a list with one of them in it."""
    value = one_of([ValueMatcher(string_match=text(v)) for v in values])
    listed = ValueMatcher(list_match=ListMatcher(one_of=value))
    return metadata(JWT_FILTER, [JWT_PAYLOAD, *path], one_of([listed, value]))
