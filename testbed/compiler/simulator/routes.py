"""Which virtual host and which route take a request, and how the route changes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from testbed.compiler.simulator import matching
from testbed.compiler.simulator.proxy import unpack
from testbed.compiler.simulator.request import Connection, Http

_DENOMINATORS = {0: 100, 1: 10_000, 2: 1_000_000}  # FractionalPercent.DenominatorType


@dataclass(frozen=True)
class Choice:
    """A route that a request takes with ``probability``; no route: nothing matched."""

    probability: Fraction
    route: Any | None


def fraction(percent: Any) -> Fraction:
    """A ``FractionalPercent`` as a fraction of one."""
    return min(Fraction(percent.numerator, _DENOMINATORS[percent.denominator]), Fraction(1))


def virtual_host(configuration: Any, http: Http) -> Any | None:
    """By the authority: its own name, the longest ``*.suffix``, the longest ``prefix.*``, ``*``."""
    host = http.host.lower()
    if configuration.ignore_port_in_host_matching:
        host = _without_port(host)
    best: tuple[int, int] = (0, 0)
    found = None
    for candidate in configuration.virtual_hosts:
        for domain in candidate.domains:
            rank = _rank(domain.lower(), host)
            if rank > best:
                best, found = rank, candidate
    return found


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _rank(domain: str, host: str) -> tuple[int, int]:
    if domain == "*":
        return (1, 0)
    if domain == host:
        return (4, 0)
    if domain.startswith("*") and host.endswith(domain[1:]) and len(host) > len(domain) - 1:
        return (3, len(domain))
    if domain.endswith("*") and host.startswith(domain[:-1]) and len(host) > len(domain) - 1:
        return (2, len(domain))
    return (0, 0)


def choices(host: Any, http: Http, connection: Connection, dynamic: Mapping[str, Any]) -> Iterator[Choice]:
    """The first route that matches; several where a route takes only a share of what matches it."""
    left = Fraction(1)
    for route in host.routes:
        if not matches(route.match, http, connection, dynamic):
            continue
        share = Fraction(1)
        if route.match.HasField("runtime_fraction"):
            share = fraction(route.match.runtime_fraction.default_value)
        if share:
            yield Choice(left * share, route)
        left -= left * share
        if not left:
            return
    yield Choice(left, None)


def matches(match: Any, http: Http, connection: Connection, dynamic: Mapping[str, Any]) -> bool:
    """Whether a ``RouteMatch`` takes the request, its share aside."""
    if match.HasField("grpc") and not http.headers.get("content-type", "").startswith("application/grpc"):
        return False
    if match.HasField("tls_context"):
        wanted = match.tls_context
        if wanted.HasField("presented") and wanted.presented.value != bool(connection.identity):
            return False
    return (
        _path_matches(match, http)
        and all(matching.header(h, http.headers) for h in match.headers)
        and all(matching.query_parameter(q, http.parameters) for q in match.query_parameters)
        and all(matching.metadata(m, dynamic) for m in match.dynamic_metadata)
    )


def _path_matches(match: Any, http: Http) -> bool:  # noqa: PLR0911 (one line a case)
    path = http.path
    insensitive = match.HasField("case_sensitive") and not match.case_sensitive.value
    kind = match.WhichOneof("path_specifier")
    if kind == "safe_regex":
        # Envoy folds no case here: istiod writes (?i) into the expression
        return matching.full_match(match.safe_regex.regex, path)
    if kind == "connect_matcher":
        return http.method == "CONNECT"
    if kind == "path_match_policy":
        return matching.path_template(unpack(match.path_match_policy.typed_config).path_template, path)
    if http.method == "CONNECT":
        return False
    wanted = getattr(match, kind) if kind else ""
    if insensitive:
        wanted, path = wanted.lower(), path.lower()
    if kind == "path":
        return bool(path == wanted)
    if kind == "path_separated_prefix":
        return bool(path == wanted or path.startswith(f"{wanted}/"))
    return path.startswith(wanted)


def changed(http: Http, *levels: Any) -> Http:
    """Header changes, level by level: weighted cluster, route, virtual host, configuration, in Envoy's order."""
    headers = dict(http.headers)
    for level in levels:
        for name in level.request_headers_to_remove:
            headers.pop(name.lower(), None)
        for option in level.request_headers_to_add:
            _apply(option, headers)
    return Http(headers)


def _apply(option: Any, headers: dict[str, str]) -> None:
    name, text = option.header.key.lower(), option.header.value
    name = ":authority" if name == "host" else name
    present = name in headers
    # APPEND_IF_EXISTS_OR_ADD 0, ADD_IF_ABSENT 1, OVERWRITE_IF_EXISTS_OR_ADD 2, OVERWRITE_IF_EXISTS 3
    action = option.append_action
    if option.HasField("append") and not option.append.value:
        action = 2
    if (action == 1 and present) or (action == 3 and not present):
        return
    headers[name] = f"{headers[name]},{text}" if action == 0 and present else text


def rewritten(http: Http, route: Any, cluster: Any | None) -> Http:
    """What goes upstream: path and authority rewritten (``cluster``: the weighted cluster that was drawn)."""
    action = route.route
    whole = http.headers.get(":path", "/")
    path, query = whole.partition("?")[0], whole[len(whole.partition("?")[0]) :]
    if action.HasField("regex_rewrite"):
        rewrite = action.regex_rewrite
        path = matching.substitute(rewrite.pattern.regex, rewrite.substitution, path)
    elif action.prefix_rewrite:
        path = action.prefix_rewrite + path[_matched_length(route.match, path) :]
    authority = action.host_rewrite_literal
    if cluster is not None and cluster.host_rewrite_literal:
        authority = cluster.host_rewrite_literal
    headers = {**http.headers, ":path": path + query}
    if authority:
        headers[":authority"] = authority
    return Http(headers)


def _matched_length(match: Any, path: str) -> int:
    kind = match.WhichOneof("path_specifier")
    if kind in ("prefix", "path", "path_separated_prefix"):
        return len(getattr(match, kind))
    return len(path)


def redirect_location(http: Http, route: Any, tls: bool) -> str:
    """Where a redirect sends the caller."""
    redirect = route.redirect
    scheme = "https" if redirect.https_redirect else redirect.scheme_redirect or ("https" if tls else "http")
    name, port = _without_port(http.host), http.host[len(_without_port(http.host)) :]
    if redirect.https_redirect or redirect.scheme_redirect:
        port = ""
    authority = redirect.host_redirect or name + port
    if redirect.port_redirect:
        authority = f"{_without_port(authority)}:{redirect.port_redirect}"
    whole = http.headers.get(":path", "/")
    path, _, query = whole.partition("?")
    if redirect.path_redirect:
        whole = redirect.path_redirect + (f"?{query}" if query and not redirect.strip_query else "")
    elif redirect.prefix_rewrite:
        rest = path[_matched_length(route.match, path) :]
        whole = redirect.prefix_rewrite + rest + (f"?{query}" if query and not redirect.strip_query else "")
    return f"{scheme}://{authority}{whole}"
