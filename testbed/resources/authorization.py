"""AuthorizationPolicy: who may do what with a workload."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from testbed.resources.values import LabelSelector, Message, PolicyTargetReference


class Action(StrEnum):
    """What a match means; CUSTOM is asked first, then DENY, then ALLOW."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


class ExtensionProvider(Message):
    """The external authorizer, by its name in the mesh's configuration."""

    name: str = ""


class Source(Message):
    """A caller: all given fields must hold, each by any of its values and none of its ``not`` values."""

    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    request_principals: tuple[str, ...] = ()
    not_request_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    not_service_accounts: tuple[str, ...] = ()
    ip_blocks: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()
    remote_ip_blocks: tuple[str, ...] = ()
    not_remote_ip_blocks: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    not_trust_domains: tuple[str, ...] = ()


class Operation(Message):
    """A request: all given fields must hold."""

    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    not_ports: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()


class From(Message):
    """Wrapper of a source."""

    source: Source | None = None


class To(Message):
    """Wrapper of an operation."""

    operation: Operation | None = None


class Condition(Message):
    """A condition on an attribute such as ``request.headers[user-agent]``."""

    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()


class Rule(Message):
    """Matches when a ``from``, a ``to`` and every ``when`` do; an empty rule matches every request."""

    from_: tuple[From, ...] = Field((), alias="from")
    to: tuple[To, ...] = ()
    when: tuple[Condition, ...] = ()


class AuthorizationPolicy(Message):
    """Rules for the selected workloads; no rules at all match nothing (an ALLOW policy then denies all)."""

    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: tuple[PolicyTargetReference, ...] = ()
    rules: tuple[Rule, ...] = ()
    action: Action = Action.ALLOW
    provider: ExtensionProvider | None = None
