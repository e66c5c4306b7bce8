"""What a request must look like: Istio's match conditions as Envoy's route matchers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, QueryParameterMatcher, RouteMatch
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ListMatcher, OrMatcher, ValueMatcher

from testbed.compiler.protobuf import boolean
from testbed.resources.values import StringMatch
from testbed.resources.virtual_service import HTTPMatchRequest

_CLAIM = re.compile(r"^@request\.auth\.claims(\..+|(?:\[[^\[\]]+\])+)$", re.IGNORECASE)
_JWT_FILTER = "envoy.filters.http.jwt_authn"
_JWT_PAYLOAD = "payload"


def string_matcher(match: StringMatch) -> StringMatcher:
    """The comparison itself; a match without any of its forms matches everything."""
    if match.exact is not None:
        return StringMatcher(exact=match.exact)
    if match.prefix is not None:
        # Envoy refuses an empty prefix; it is what everything begins with
        return StringMatcher(prefix=match.prefix) if match.prefix else _regex(".*")
    return _regex(match.regex or ".*")


def _regex(expression: str) -> StringMatcher:
    return StringMatcher(safe_regex=RegexMatcher(regex=expression))


def is_presence(match: StringMatch) -> bool:
    """Whether only presence is asked for: no form given, or the regex ``*`` (which is none; istio#20629)."""
    return not match.which() or match.regex == "*"


def header_matcher(name: str, match: StringMatch) -> HeaderMatcher:
    """A header's (or pseudo-header's) value."""
    if is_presence(match):
        return HeaderMatcher(name=name, present_match=True)
    return HeaderMatcher(name=name, string_match=string_matcher(match))


def _query_matcher(name: str, match: StringMatch) -> QueryParameterMatcher:
    if is_presence(match):
        return QueryParameterMatcher(name=name, present_match=True)
    return QueryParameterMatcher(name=name, string_match=string_matcher(match))


def _claim_matcher(name: str, match: StringMatch) -> MetadataMatcher | None:
    """``@request.auth.claims.a.b`` (or ``[a][b]``): a claim of the verified token, a text or a list with it."""
    found = _CLAIM.match(name)
    if not found:
        return None
    path = found[1]
    claims = re.findall(r"\[([^\[\]]+)\]", path) if path.startswith("[") else path[1:].split(".")
    text = string_matcher(match)
    either = OrMatcher(
        value_matchers=[
            ValueMatcher(string_match=text),
            ValueMatcher(list_match=ListMatcher(one_of=ValueMatcher(string_match=text))),
        ]
    )
    return MetadataMatcher(
        filter=_JWT_FILTER,
        path=[MetadataMatcher.PathSegment(key=k) for k in (_JWT_PAYLOAD, *claims)],
        value=ValueMatcher(or_match=either),
    )


def route_match(match: HTTPMatchRequest | None, separated_prefix: bool = False) -> RouteMatch:
    """The matcher of one condition block; none matches everything.

    ``separated_prefix`` is the Gateway API's reading of a prefix: whole path elements.
    """
    out = RouteMatch(prefix="/")
    if match is None:
        return out
    _headers(out, match.headers, invert=False)
    _headers(out, match.without_headers, invert=True)
    ordered = sorted(out.headers, key=lambda h: str(h.name))
    del out.headers[:]
    out.headers.extend(ordered)
    if match.uri is not None:
        _path(out, match.uri, separated_prefix)
    out.case_sensitive.CopyFrom(boolean(not match.ignore_uri_case))
    pseudo = ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme))
    out.headers.extend(header_matcher(name, value) for name, value in pseudo if value is not None)
    out.query_parameters.extend(_query_matcher(n, m) for n, m in sorted(match.query_params.items()))
    return out


def _headers(out: RouteMatch, wanted: Mapping[str, StringMatch], *, invert: bool) -> None:
    for name, match in sorted(wanted.items()):
        if (claim := _claim_matcher(name, match)) is not None:
            claim.invert = invert
            out.dynamic_metadata.append(claim)
            continue
        matcher = header_matcher(name, match)
        if invert:
            matcher.invert_match = True
            # a header that is absent is "without" the value too; Envoy has this apart from presence matches
            matcher.treat_missing_header_as_empty = not is_presence(match)
        out.headers.append(matcher)


def _path(out: RouteMatch, uri: StringMatch, separated_prefix: bool) -> None:
    if uri.exact is not None:
        out.path = uri.exact
    elif uri.prefix is not None:
        if separated_prefix and uri.prefix != "/":
            out.path_separated_prefix = uri.prefix.removesuffix("/")
        else:
            out.prefix = uri.prefix
    elif uri.regex is not None:
        out.safe_regex.regex = uri.regex


def is_catch_all(match: RouteMatch) -> bool:
    """Whether nothing can come after it: any path, and no other condition."""
    path = match.WhichOneof("path_specifier")
    everything = (
        (path == "prefix" and match.prefix == "/")
        or (path == "path_separated_prefix" and match.path_separated_prefix == "/")
        or (path == "safe_regex" and match.safe_regex.regex == ".*")
    )
    return everything and not (match.headers or match.query_parameters or match.dynamic_metadata)
