"""Envoy's matchers, evaluated: strings, headers, values of metadata, paths, addresses.

Each function answers what the Envoy of the same release would, field by field; regular expressions are
RE2, Envoy's own engine.
"""

from __future__ import annotations

import re as python_re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import re2

Address = IPv4Address | IPv6Address


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(expression, options=options)


def full_match(expression: str, text: str) -> bool:
    """Whether an RE2 expression matches all of ``text``."""
    return _compiled(expression).fullmatch(text) is not None


def substitute(expression: str, replacement: str, text: str) -> str:
    """Every match of ``expression`` replaced; ``\\1`` stands for a group."""
    return str(_compiled(expression).sub(replacement, text))


def string(matcher: Any, text: str) -> bool:
    """``envoy.type.matcher.v3.StringMatcher``."""
    kind = matcher.WhichOneof("match_pattern")
    if kind == "safe_regex":
        return full_match(matcher.safe_regex.regex, text)
    wanted = getattr(matcher, kind) if kind else ""
    if matcher.ignore_case:
        wanted, text = wanted.lower(), text.lower()
    match kind:
        case "exact":
            return text == wanted
        case "prefix":
            return text.startswith(wanted)
        case "suffix":
            return text.endswith(wanted)
        case "contains":
            return wanted in text
    return False


def header(matcher: Any, headers: Mapping[str, str]) -> bool:
    """``envoy.config.route.v3.HeaderMatcher``: names are lower case, values of one name joined by commas."""
    value = headers.get(matcher.name.lower())
    kind = matcher.WhichOneof("header_match_specifier")
    if kind in (None, "present_match"):
        wanted = True if kind is None else matcher.present_match
        return bool(((value is not None) == wanted) != matcher.invert_match)
    if value is None:
        if not matcher.treat_missing_header_as_empty:
            # an absent header fails a value match, and passes an inverted one (Envoy's HeaderUtility)
            return bool(matcher.invert_match)
        value = ""
    return bool(_header_value(matcher, kind, value) != matcher.invert_match)


def _header_value(matcher: Any, kind: str, value: str) -> bool:  # noqa: PLR0911 (one line a case)
    match kind:
        case "string_match":
            return string(matcher.string_match, value)
        case "exact_match":
            return bool(value == matcher.exact_match)
        case "prefix_match":
            return value.startswith(matcher.prefix_match)
        case "suffix_match":
            return value.endswith(matcher.suffix_match)
        case "contains_match":
            return matcher.contains_match in value
        case "safe_regex_match":
            return full_match(matcher.safe_regex_match.regex, value)
    number = python_re.fullmatch(r"-?\d+", value)
    return number is not None and matcher.range_match.start <= int(value) < matcher.range_match.end


def query_parameter(matcher: Any, parameters: Mapping[str, Sequence[str]]) -> bool:
    """``QueryParameterMatcher``: the first value of the name counts."""
    values = parameters.get(matcher.name)
    if matcher.WhichOneof("query_parameter_match_specifier") != "string_match":
        return (values is not None) == (matcher.present_match or not matcher.HasField("present_match"))
    return bool(values) and string(matcher.string_match, values[0]) if values else False


def value(matcher: Any, found: Any) -> bool:  # noqa: PLR0911 (one line a case)
    """``ValueMatcher`` over a plain JSON value; absent is ``None``."""
    match matcher.WhichOneof("match_pattern"):
        case "string_match":
            return isinstance(found, str) and string(matcher.string_match, found)
        case "bool_match":
            return isinstance(found, bool) and found == matcher.bool_match
        case "present_match":
            return bool((found is not None) == matcher.present_match)
        case "null_match":
            return found is None
        case "list_match":
            return isinstance(found, list) and any(value(matcher.list_match.one_of, v) for v in found)
        case "or_match":
            return any(value(m, found) for m in matcher.or_match.value_matchers)
        case "double_match":
            return isinstance(found, int | float) and not isinstance(found, bool) and _double(matcher, found)
    return False


def _double(matcher: Any, found: float) -> bool:
    wanted = matcher.double_match
    if wanted.WhichOneof("match_pattern") == "exact":
        return bool(found == wanted.exact)
    return bool(wanted.range.start <= found < wanted.range.end)


def metadata(matcher: Any, dynamic: Mapping[str, Any]) -> bool:
    """``MetadataMatcher`` over dynamic metadata, by filter name."""
    found: Any = dynamic.get(matcher.filter)
    for segment in matcher.path:
        found = found.get(segment.key) if isinstance(found, dict) else None
    return bool(value(matcher.value, found) != matcher.invert)


def in_block(block: Any, address: Address) -> bool:
    """Whether ``address`` lies in a ``CidrRange``."""
    network = ip_network(f"{block.address_prefix}/{block.prefix_len.value}", strict=False)
    return address.version == network.version and address in network


def parse_address(text: str) -> Address | None:
    """The address in ``text``, a port left out; ``None`` when it is none."""
    try:
        return ip_address(text.strip())
    except ValueError:
        host = text.strip().rpartition(":")[0].strip("[]")
    try:
        return ip_address(host)
    except ValueError:
        return None


_LITERAL = r"[a-zA-Z0-9-._~%!$&'()+,;:@=]+"


def path_template(template: str, path: str) -> bool:
    """Envoy's URI template: ``*`` one segment, ``**`` what is left, ``{name=...}`` a named part."""
    return full_match(_template_expression(template), path)


@lru_cache(maxsize=1024)
def _template_expression(template: str) -> str:
    text = python_re.sub(r"\{[A-Za-z][A-Za-z0-9_]*=([^{}]*)\}", r"\1", template)
    text = python_re.sub(r"\{[A-Za-z][A-Za-z0-9_]*\}", "*", text)
    out = []
    for part in python_re.split(r"(\*\*|\*)", text):
        if part == "**":
            # zero or more characters of a path, slashes among them
            out.append(r"[a-zA-Z0-9-._~%!$&'()+,;:@=/]*")
        elif part == "*":
            out.append(_LITERAL)
        else:
            out.append(re2.escape(part))
    return "".join(out)
