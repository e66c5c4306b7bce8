"""One rule of an AuthorizationPolicy as a policy of Envoy's RBAC filter.

Envoy asks two questions of a request: is it one of the *permissions* (what is done) and does it come from
one of the *principals* (who does it).  ``to`` becomes permissions, ``from`` becomes principals, and each
condition of ``when`` joins the one or the other side.  Attributes that only HTTP has can't be asked of a
TCP connection: an ALLOW rule with one is left out there, and DENY, AUDIT and CUSTOM rules go on without the
condition, so that in doubt less is allowed (istiod: pilot/pkg/security/authz/model).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ListMatcher, ValueMatcher

from testbed.compiler.protobuf import packed
from testbed.compiler.security import matching
from testbed.resources.authorization import Condition, Operation, Rule, Source

SPIFFE = "spiffe://"


class Unmatchable(Exception):
    """A rule that can't be compiled as it stands and is left out: an ALLOW rule on TCP that asks for HTTP's
    attributes, a value or an attribute that validation should have refused."""


@dataclass(frozen=True)
class Scope:
    """What the meaning of a rule depends on beside its own text."""

    namespace: str
    """The policy's own: service accounts without a namespace are of it."""
    trust_domain: str
    tcp: bool
    action: int
    """Of Envoy's RBAC: ``RBAC.ALLOW``, ``RBAC.DENY`` or ``RBAC.LOG``."""


@dataclass(frozen=True)
class _Attribute:
    """How one attribute is matched: a function from the values to a matcher for "one of them"."""

    any_of: Callable[[Sequence[str]], Any]
    http_only: bool = False


def never() -> Policy:
    """The policy that matches nothing: what a policy without rules becomes, so that it still counts."""
    return Policy(
        permissions=[Permission(not_rule=Permission(any=True))],
        principals=[Principal(not_id=Principal(any=True))],
    )


def compile_rule(rule: Rule, scope: Scope) -> Policy:
    """The rule as an RBAC policy.  Raises :class:`Unmatchable` where a TCP chain has to leave it out."""
    what: list[Permission] = []
    who: list[Principal] = []
    for condition in rule.when:
        side = what if _is_permission(condition.key) else who
        side.extend(_of_condition(condition, scope))
    operations = [to.operation for to in rule.to] or [None]
    sources = [from_.source for from_ in rule.from_] or [None]
    return Policy(
        permissions=[_all_permissions([*_of_operation(o, scope), *what]) for o in operations],
        principals=[_all_principals([*_of_source(s, scope), *who]) for s in sources],
    )


def _is_permission(key: str) -> bool:
    return key in ("destination.ip", "destination.port", "connection.sni") or key.startswith("experimental.")


def _of_operation(operation: Operation | None, scope: Scope) -> Iterator[Permission]:
    if operation is None:
        return
    yield from _both(_PERMISSIONS["hosts"], operation.hosts, operation.not_hosts, Permission, scope)
    yield from _both(_PERMISSIONS["methods"], operation.methods, operation.not_methods, Permission, scope)
    yield from _both(_PERMISSIONS["paths"], operation.paths, operation.not_paths, Permission, scope)
    yield from _both(_PERMISSIONS["destination.port"], operation.ports, operation.not_ports, Permission, scope)


def _of_source(source: Source | None, scope: Scope) -> Iterator[Principal]:
    if source is None:
        return
    for key, values, excluded in (
        ("source.principal", source.principals, source.not_principals),
        ("request.auth.principal", source.request_principals, source.not_request_principals),
        ("source.serviceAccount", source.service_accounts, source.not_service_accounts),
        ("source.trustDomain", source.trust_domains, source.not_trust_domains),
        ("source.namespace", source.namespaces, source.not_namespaces),
        ("remote.ip", source.remote_ip_blocks, source.not_remote_ip_blocks),
        ("source.ip", source.ip_blocks, source.not_ip_blocks),
    ):
        yield from _both(_principal_attribute(key, scope), values, excluded, Principal, scope)


def _of_condition(condition: Condition, scope: Scope) -> Iterator[Any]:
    key, values, excluded = condition.key, condition.values, condition.not_values
    if key.startswith("experimental."):
        yield from _both(_Attribute(_filter_metadata(key)), values, excluded, Permission, scope)
    elif _is_permission(key):
        yield from _both(_PERMISSIONS[key], values, excluded, Permission, scope)
    else:
        yield from _both(_principal_attribute(key, scope), values, excluded, Principal, scope)


def _both(
    attribute: _Attribute, values: Sequence[str], excluded: Sequence[str], kind: type, scope: Scope
) -> Iterator[Any]:
    """One of ``values``, and none of ``excluded``; an empty list asks nothing."""
    if not values and not excluded:
        return
    if attribute.http_only and scope.tcp:
        if scope.action == RBAC.ALLOW:
            raise Unmatchable("HTTP only")
        return
    try:
        wanted = attribute.any_of(values) if values else None
        unwanted = attribute.any_of(excluded) if excluded else None
    except ValueError as e:  # a bad port or address: validation refuses it, and a compiler must not fall over it
        raise Unmatchable(str(e)) from None
    if wanted is not None:
        yield wanted
    if unwanted is not None:
        yield Permission(not_rule=unwanted) if kind is Permission else Principal(not_id=unwanted)


def _each(match: Callable[[str], Any]) -> Callable[[Sequence[str]], Any]:
    """Match each value on its own, any of them counts."""

    def any_of(values: Sequence[str]) -> Any:
        matches = [match(v) for v in values]
        if len(matches) == 1:
            return matches[0]
        if isinstance(matches[0], Permission):
            return Permission(or_rules=Permission.Set(rules=matches))
        return Principal(or_ids=Principal.Set(ids=matches))

    return any_of


def _all_permissions(rules: Sequence[Permission]) -> Permission:
    return Permission(and_rules=Permission.Set(rules=rules)) if rules else Permission(any=True)


def _all_principals(ids: Sequence[Principal]) -> Principal:
    return Principal(and_ids=Principal.Set(ids=ids)) if ids else Principal(any=True)


# -- permissions ------------------------------------------------------------------------------------------


def _path(value: str) -> Permission:
    if matching.is_path_template(value):
        template = packed(matching.path_template(value))
        return Permission(uri_template=TypedExtensionConfig(name="uri-template", typed_config=template))
    return Permission(url_path=PathMatcher(path=matching.text(value)))


def _filter_metadata(key: str) -> Callable[[Sequence[str]], Permission]:
    # experimental.envoy.filters.network.mysql_proxy[db.table]: that filter, that key of its metadata
    name, _, rest = key.removeprefix("experimental.").partition("[")
    inner = rest.removesuffix("]")

    def any_of(values: Sequence[str]) -> Permission:
        matchers = []
        for value in values:
            listed = value.startswith("[") and value.endswith("]")
            matcher = ValueMatcher(string_match=matching.text(value.strip("[]") if listed else value))
            matchers.append(ValueMatcher(list_match=ListMatcher(one_of=matcher)) if listed else matcher)
        return Permission(metadata=matching.metadata(name, [inner], matching.one_of(matchers)))

    return any_of


_PERMISSIONS = {
    "hosts": _Attribute(
        _each(lambda v: Permission(header=matching.header(":authority", v, ignore_case=True))), http_only=True
    ),
    "methods": _Attribute(_each(lambda v: Permission(header=matching.header(":method", v))), http_only=True),
    "paths": _Attribute(_each(_path), http_only=True),
    "destination.ip": _Attribute(_each(lambda v: Permission(destination_ip=matching.cidr(v)))),
    "destination.port": _Attribute(_each(lambda v: Permission(destination_port=int(v)))),
    "connection.sni": _Attribute(_each(lambda v: Permission(requested_server_name=matching.text(v)))),
}


# -- principals -------------------------------------------------------------------------------------------


_ByScope = Callable[[Scope], _Attribute]

_PRINCIPALS: dict[str, _ByScope] = {
    "source.ip": lambda scope: _Attribute(_each(lambda v: Principal(direct_remote_ip=matching.cidr(v)))),
    "remote.ip": lambda scope: _Attribute(_each(lambda v: Principal(remote_ip=matching.cidr(v)))),
    "source.namespace": lambda scope: _Attribute(_each(_namespace)),
    "source.serviceAccount": lambda scope: _Attribute(_each(lambda v: _service_account(v, scope.namespace))),
    "source.trustDomain": lambda scope: _Attribute(_each(_trust_domain)),
    "source.principal": lambda scope: _Attribute(_each(lambda v: _principal(v, scope.trust_domain))),
    "request.auth.principal": lambda scope: _Attribute(_each(_request_principal), http_only=True),
    "request.auth.audiences": lambda scope: _claim(["aud"]),
    "request.auth.presenter": lambda scope: _claim(["azp"]),
}


def _principal_attribute(key: str, scope: Scope) -> _Attribute:
    if key.startswith("request.headers["):
        name = _bracketed(key, "request.headers")
        return _Attribute(_each(lambda v: Principal(header=matching.header(name, v))), http_only=True)
    if key.startswith("request.auth.claims["):
        return _claim(_bracketed(key, "request.auth.claims").split("]["))
    if key not in _PRINCIPALS:
        raise Unmatchable(f"unknown attribute {key!r}")
    return _PRINCIPALS[key](scope)


def _claim(path: Sequence[str]) -> _Attribute:
    return _Attribute(lambda values: Principal(metadata=matching.claim(path, values)), http_only=True)


def _bracketed(key: str, prefix: str) -> str:
    return key.removeprefix(prefix).removeprefix("[").removesuffix("]")


def _identity(matcher: Any) -> Principal:
    # an upstream Envoy compares the URI names of the peer's verified certificate; none without mutual TLS
    return Principal(authenticated=Principal.Authenticated(principal_name=matcher))


def _principal(value: str, trust_domain: str) -> Principal:
    parts = value.split("/")
    if len(parts) == 5 and parts[0] == "cluster.local":
        value = "/".join([trust_domain, *parts[1:]])  # cluster.local stands for the mesh's own trust domain
    return _identity(matching.text(value, SPIFFE))


def _namespace(value: str) -> Principal:
    name = ".*".join(matching.quoted(part) for part in value.split("*"))
    return _identity(matching.regex(f".*/ns/{name}/.*"))


def _service_account(value: str, namespace: str) -> Principal:
    outer, slash, account = value.partition("/")
    if not slash:
        outer, account = namespace, value
    return _identity(
        matching.regex(f"spiffe://.+/ns/{matching.quoted(outer)}/(.+/|)sa/{matching.quoted(account)}(/.+)?")
    )


def _trust_domain(value: str) -> Principal:
    if value == "*":
        return _identity(matching.text("spiffe://*"))
    if "*" not in value:
        return _identity(matching.text(f"{SPIFFE}{value}/*"))
    name = "[^/]*".join(matching.quoted(part) for part in value.split("*", 1))
    return _identity(matching.regex(f"{SPIFFE}{name}/.*"))


def _request_principal(value: str) -> Principal:
    """``issuer/subject`` of a verified token; an issuer may hold slashes itself, so the last one divides."""
    issuer, slash, subject = value.rpartition("/") if "/" in value else (value, "", "")
    anything = matching.regex(".+")
    by_issuer, by_subject = StringMatcher(exact=issuer), StringMatcher(exact=subject)
    if value.startswith("*"):
        # one wildcard is read, at the start or the end; what stands beyond the dividing slash is exact
        by_issuer = matching.text(issuer) if slash else anything
        by_subject = by_subject if slash else matching.text(value)
    elif value.endswith("*"):
        by_issuer = by_issuer if slash else matching.text(value)
        by_subject = matching.text(subject) if slash else anything
    claims = [matching.claim_text("iss", by_issuer), matching.claim_text("sub", by_subject)]
    return _all_principals([Principal(metadata=c) for c in claims])
