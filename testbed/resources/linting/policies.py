"""Checks of the security kinds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from testbed.documents import Path
from testbed.model.topology import MeshWorkload
from testbed.resources.authentication import MutualTLSMode, PeerAuthentication, RequestAuthentication
from testbed.resources.authorization import Action, AuthorizationPolicy, Rule, Source
from testbed.resources.linting.context import Context, labels_of
from testbed.resources.linting.findings import Hit, Severity, check
from testbed.resources.resource import Resource
from testbed.resources.telemetry import Telemetry
from testbed.resources.values import json_name, selects

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"}


def _sources(rule: Rule, at: Path) -> Iterator[tuple[Path, Source]]:
    for i, wrapper in enumerate(rule.from_):
        if wrapper.source is not None:
            yield (*at, "from", i, "source"), wrapper.source


def _rules(policy: Resource[AuthorizationPolicy]) -> Iterator[tuple[Path, Rule]]:
    for i, rule in enumerate(policy.spec.rules):
        yield ("spec", "rules", i), rule


@check(
    "jwt-without-authentication",
    Severity.ERROR,
    "no token is read, so the requests have no principal and no claims",
)
def jwt_without_authentication(context: Context) -> Iterator[Hit]:
    """A policy on tokens for workloads that no RequestAuthentication is for."""
    authentications = context.resources.request_authentications
    for policy in context.resources.authorization_policies:
        labels = labels_of(policy.spec.selector)
        for other in authentications:
            reads = labels_of(other.spec.selector)
            near = other.namespace in (policy.namespace, context.root_namespace)
            if near and (selects(reads, labels) or other.spec.target_refs or other.spec.target_ref):
                break
        else:
            for path, field in _token_fields(policy):
                advice = "add a RequestAuthentication for the same workloads"
                yield policy, path, f"{field} is about tokens, and no RequestAuthentication reads any", advice


def _token_fields(policy: Resource[AuthorizationPolicy]) -> Iterator[tuple[Path, str]]:
    for at, rule in _rules(policy):
        for path, source in _sources(rule, at):
            for name in ("request_principals", "not_request_principals"):
                if getattr(source, name):
                    yield (*path, json_name(name)), json_name(name)
        for i, condition in enumerate(rule.when):
            if condition.key.startswith("request.auth."):
                yield (*at, "when", i, "key"), condition.key


@check("allow-nothing", Severity.WARNING, "every request to these workloads is denied (403, RBAC: access denied)")
def allow_nothing(context: Context) -> Iterator[Hit]:
    """An ALLOW policy without rules, where no other ALLOW policy lets anybody in."""
    policies = [p for p in context.resources.authorization_policies if p.spec.action is Action.ALLOW]
    for policy in policies:
        labels = labels_of(policy.spec.selector)
        others = [
            o
            for o in policies
            if o.spec.rules
            and policy.namespace in (o.namespace, context.root_namespace)
            and (selects(labels, labels_of(o.spec.selector)) or selects(labels_of(o.spec.selector), labels))
        ]
        if not policy.spec.rules and not others:
            yield policy, ("spec",), "it allows nothing", "write rules for the callers that may"


@check("allow-for-nobody", Severity.WARNING, "no workload can satisfy the rule; what no rule allows is denied")
def allow_for_nobody(context: Context) -> Iterator[Hit]:
    """A rule of an ALLOW policy whose callers are none of the mesh's workloads."""
    for policy in context.resources.authorization_policies:
        if policy.spec.action is not Action.ALLOW or context.topology is None:
            continue
        for at, rule in _rules(policy):
            for path, source in _sources(rule, at):
                if not any(_may_be(source, w, context.topology.trust_domain) for w in context.workloads):
                    message = "no workload of the mesh is such a caller"
                    known = ", ".join(sorted({f"{w.namespace}/{w.service_account}" for w in context.workloads}))
                    yield policy, path, message, f"the service accounts are {known}"


def _may_be(source: Source, workload: MeshWorkload, trust_domain: str) -> bool:
    identity = workload.spiffe_id(trust_domain).removeprefix("spiffe://")
    account = f"{workload.namespace}/{workload.service_account}"
    return (
        _any(source.principals, identity)
        and _any(source.namespaces, workload.namespace)
        and _any([a if "/" in a else f"{workload.namespace}/{a}" for a in source.service_accounts], account)
        and _any(source.trust_domains, trust_domain)
    )


def _any(patterns: Iterable[str], value: str) -> bool:
    given = tuple(patterns)
    return not given or any(
        pattern in ("*", value)
        or (pattern.endswith("*") and value.startswith(pattern[:-1]))
        or (pattern.startswith("*") and value.endswith(pattern[1:]))
        for pattern in given
    )


@check("principal-with-scheme", Severity.ERROR, "the rule never matches: principals are compared without spiffe://")
def principal_with_scheme(context: Context) -> Iterator[Hit]:
    """A principal that begins with spiffe://."""
    for policy in context.resources.authorization_policies:
        for at, rule in _rules(policy):
            for path, source in _sources(rule, at):
                for name in ("principals", "not_principals"):
                    for i, value in enumerate(getattr(source, name)):
                        if value.startswith("spiffe://"):
                            plain = value.removeprefix("spiffe://")
                            yield policy, (*path, json_name(name), i), f"principal {value!r}", f"write {plain}"


@check("method-in-small-letters", Severity.WARNING, "methods are compared with their case: it never matches")
def method_in_small_letters(context: Context) -> Iterator[Hit]:
    """A method that is not written as HTTP writes it."""
    for policy in context.resources.authorization_policies:
        for at, rule in _rules(policy):
            for i, to in enumerate(rule.to):
                for name in ("methods", "not_methods"):
                    for j, method in enumerate(getattr(to.operation, name, ())):
                        if method.upper() in _METHODS and method not in _METHODS:
                            path = (*at, "to", i, "operation", json_name(name), j)
                            yield policy, path, f"method {method!r}", f"write {method.upper()}"


@check("path-without-slash", Severity.WARNING, "paths begin with a slash: it never matches")
def path_without_slash(context: Context) -> Iterator[Hit]:
    """A path that begins with neither a slash nor a star."""
    for policy in context.resources.authorization_policies:
        for at, rule in _rules(policy):
            for i, to in enumerate(rule.to):
                for name in ("paths", "not_paths"):
                    for j, value in enumerate(getattr(to.operation, name, ())):
                        if not value.startswith(("/", "*", "{")):
                            path = (*at, "to", i, "operation", json_name(name), j)
                            yield policy, path, f"path {value!r}", f"write /{value}"


@check(
    "identity-without-mtls", Severity.WARNING, "without mutual TLS a caller has no identity: the rule never matches"
)
def identity_without_mtls(context: Context) -> Iterator[Hit]:
    """A policy on callers' identities for workloads whose mutual TLS is DISABLE."""
    for policy in context.resources.authorization_policies:
        workloads = context.selected(policy.namespace, labels_of(policy.spec.selector))
        plain = [w.name for w in workloads if context.mutual_tls(w) is MutualTLSMode.DISABLE]
        for at, rule in _rules(policy) if plain else ():
            for path, source in _sources(rule, at):
                for name in ("principals", "namespaces", "service_accounts", "trust_domains"):
                    if getattr(source, name):
                        message = f"{json_name(name)}, but {plain[0]} takes plain text only"
                        yield (
                            policy,
                            (*path, json_name(name)),
                            message,
                            "write mode STRICT in its PeerAuthentication",
                        )


@check(
    "deny-on-http-fields", Severity.WARNING, "on TCP ports what can't be compared counts as matching: all is denied"
)
def deny_on_http_fields(context: Context) -> Iterator[Hit]:
    """A DENY rule on HTTP fields that names no port."""
    for policy in context.resources.authorization_policies:
        if policy.spec.action is not Action.DENY:
            continue
        for at, rule in _rules(policy):
            operations = [to.operation for to in rule.to if to.operation is not None]
            if operations and not any(o.ports or o.not_ports for o in operations):
                yield policy, (*at, "to"), "a DENY rule on HTTP fields for all ports", "write the ports"


_Selecting = (
    Resource[AuthorizationPolicy]
    | Resource[PeerAuthentication]
    | Resource[RequestAuthentication]
    | Resource[Telemetry]
)


def _selecting(context: Context) -> Iterator[_Selecting]:
    yield from context.resources.authorization_policies
    yield from context.resources.peer_authentications
    yield from context.resources.request_authentications
    yield from context.resources.telemetries


@check("selects-nothing", Severity.WARNING, "the resource is for nobody")
def selects_nothing(context: Context) -> Iterator[Hit]:
    """A selector that no workload of the namespace matches."""
    for policy in _selecting(context) if context.topology else ():
        labels = labels_of(policy.spec.selector)
        if labels and not context.selected(policy.namespace, labels):
            shown = ", ".join(f"{k}={v}" for k, v in labels.items())
            message = f"no workload of {policy.namespace} has {shown}"
            yield policy, ("spec", "selector", "matchLabels"), message, "write labels that workloads carry"


@check("empty-selector", Severity.INFO, "a selector without labels selects every workload of the namespace")
def empty_selector(context: Context) -> Iterator[Hit]:
    """A selector without labels."""
    for policy in _selecting(context):
        if policy.spec.selector is not None and not policy.spec.selector.match_labels:
            yield policy, ("spec", "selector"), "a selector without labels", "remove it, or write labels"


@check("policies-for-one-namespace", Severity.WARNING, "the first by name counts, the other is ignored")
def policies_for_one_namespace(context: Context) -> Iterator[Hit]:
    """Several PeerAuthentications without a selector in one namespace."""
    first: dict[str, str] = {}
    for policy in context.resources.peer_authentications:
        if not labels_of(policy.spec.selector):
            other = first.setdefault(policy.namespace, policy.name)
            if other != policy.name:
                message = f"{other} is for all workloads of {policy.namespace} too"
                yield policy, ("metadata", "name"), message, "join the two, or write a selector"


@check(
    "private-key-in-jwks", Severity.WARNING, "Envoy needs public keys only; the private one can be read by anybody"
)
def private_key_in_jwks(context: Context) -> Iterator[Hit]:
    """A key set with a private or symmetric key."""
    for policy in context.resources.request_authentications:
        for i, rule in enumerate(policy.spec.jwt_rules):
            keys = json.loads(rule.jwks).get("keys", []) if rule.jwks else []
            if any("d" in key or key.get("kty") == "oct" for key in keys if isinstance(key, dict)):
                yield policy, ("spec", "jwtRules", i, "jwks"), "a private key in jwks", "write its public part"


@check("log-filter-without-provider", Severity.WARNING, "a filter counts beside providers only: all is logged")
def log_filter_without_provider(context: Context) -> Iterator[Hit]:
    """A Telemetry's filter of an access log in an entry that names no provider."""
    for telemetry in context.resources.telemetries:
        for i, entry in enumerate(telemetry.spec.access_logging):
            if entry.filter is not None and not entry.providers:
                path = ("spec", "accessLogging", i, "filter")
                yield telemetry, path, "the filter is not read", "add providers: [{name: envoy}]"
