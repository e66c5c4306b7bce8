"""RBAC filters, evaluated: which policy matches, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envoy.config.rbac.v3.rbac_pb2 import RBAC

from testbed.compiler.simulator import matching
from testbed.compiler.simulator.matching import Address
from testbed.compiler.simulator.proxy import unpack
from testbed.compiler.simulator.request import Connection, Http


@dataclass(frozen=True)
class Subject:
    """All that an RBAC policy can look at."""

    connection: Connection
    http: Http | None
    remote: Address
    """The caller's address as Envoy makes it out, X-Forwarded-For taken into account."""
    dynamic: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What one set of rules said.  ``policy``: the first that matched, by name; empty when none did."""

    allowed: bool
    policy: str
    action: str
    asked: tuple[str, ...] = ()
    """All policies that were asked, by name."""


def evaluate(rules: Any, subject: Subject) -> Finding:
    """Rules over a subject.  Envoy goes through the policies by name."""
    matched = next((n for n in sorted(rules.policies) if _policy(rules.policies[n], subject)), "")
    action = RBAC.Action.Name(rules.action)
    allowed = {"ALLOW": bool(matched), "DENY": not matched}.get(action, True)
    return Finding(allowed, matched, action, tuple(sorted(rules.policies)))


def _policy(policy: Any, subject: Subject) -> bool:
    return any(_permission(p, subject) for p in policy.permissions) and any(
        _principal(p, subject) for p in policy.principals
    )


def _permission(rule: Any, subject: Subject) -> bool:  # noqa: PLR0911 (one line a case)
    connection, http = subject.connection, subject.http
    match rule.WhichOneof("rule"):
        case "any":
            return bool(rule.any)
        case "and_rules":
            return all(_permission(r, subject) for r in rule.and_rules.rules)
        case "or_rules":
            return any(_permission(r, subject) for r in rule.or_rules.rules)
        case "not_rule":
            return not _permission(rule.not_rule, subject)
        case "header":
            return matching.header(rule.header, http.headers if http else {})
        case "url_path":
            return http is not None and matching.string(rule.url_path.path, http.path)
        case "uri_template":
            template = unpack(rule.uri_template.typed_config).path_template
            return http is not None and matching.path_template(template, http.path)
        case "destination_ip":
            return matching.in_block(rule.destination_ip, connection.destination)
        case "destination_port":
            return bool(rule.destination_port == connection.port)
        case "requested_server_name":
            return matching.string(rule.requested_server_name, connection.sni)
        case "metadata":
            return matching.metadata(rule.metadata, subject.dynamic)
    return False


def _principal(rule: Any, subject: Subject) -> bool:  # noqa: PLR0911 (one line a case)
    connection, http = subject.connection, subject.http
    match rule.WhichOneof("identifier"):
        case "any":
            return bool(rule.any)
        case "and_ids":
            return all(_principal(r, subject) for r in rule.and_ids.ids)
        case "or_ids":
            return any(_principal(r, subject) for r in rule.or_ids.ids)
        case "not_id":
            return not _principal(rule.not_id, subject)
        case "authenticated":
            if not connection.identity:
                return False
            named = rule.authenticated.HasField("principal_name")
            return not named or matching.string(rule.authenticated.principal_name, connection.identity)
        case "direct_remote_ip" | "source_ip":
            return matching.in_block(getattr(rule, rule.WhichOneof("identifier")), connection.source)
        case "remote_ip":
            return matching.in_block(rule.remote_ip, subject.remote)
        case "header":
            return matching.header(rule.header, http.headers if http else {})
        case "url_path":
            return http is not None and matching.string(rule.url_path.path, http.path)
        case "metadata":
            return matching.metadata(rule.metadata, subject.dynamic)
    return False
