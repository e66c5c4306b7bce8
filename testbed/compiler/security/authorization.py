"""AuthorizationPolicies as Envoy's RBAC and ext_authz filters, for HTTP and for TCP.

Order, as istiod has it: CUSTOM before the tokens are read; then AUDIT, DENY, ALLOW.  A policy's rule becomes
an RBAC policy named ``ns[...]-policy[...]-rule[n]``: by that name Envoy's log and ``testbed explain`` tell
which rule decided.  CUSTOM is two filters: an RBAC filter that only notes which rule would match (shadow
rules), and an authorizer that is asked when it noted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRBAC
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as TcpRBAC
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ValueMatcher

from testbed.compiler.protobuf import packed
from testbed.compiler.security import matching
from testbed.compiler.security.providers import ClusterLookup, MeshConfig, http_authorizer, tcp_authorizer
from testbed.compiler.security.rules import Scope, Unmatchable, compile_rule, never
from testbed.resources.authorization import Action, AuthorizationPolicy
from testbed.resources.resource import Resource

HTTP_RBAC = "envoy.filters.http.rbac"
TCP_RBAC = "envoy.filters.network.rbac"
HTTP_EXT_AUTHZ = "envoy.filters.http.ext_authz"
TCP_EXT_AUTHZ = "envoy.filters.network.ext_authz"

DRY_RUN = "istio.io/dry-run"
_TRUE = ("1", "t", "T", "TRUE", "true", "True")  # what Go's ParseBool takes
_SHADOW_PREFIX = {RBAC.ALLOW: "istio_dry_run_allow_", RBAC.DENY: "istio_dry_run_deny_", RBAC.LOG: ""}
_CUSTOM_PREFIX = "istio_ext_authz_"
_CUSTOM_POLICY = "istio-ext-authz"
_BAD_CUSTOM = "-deny-due-to-bad-CUSTOM-action"

Policies = Sequence[Resource[AuthorizationPolicy]]


@dataclass
class _Rules:
    """What one filter holds: rules in force, and rules on trial (dry run).  None: no policy of that sort."""

    action: int
    enforced: RBAC | None = None
    trial: RBAC | None = None

    def of(self, policy: Resource[AuthorizationPolicy]) -> RBAC:
        """The rules that ``policy`` belongs to."""
        if policy.annotations.get(DRY_RUN) in _TRUE:
            self.trial = self.trial if self.trial is not None else RBAC(action=self.action)
            return self.trial
        self.enforced = self.enforced if self.enforced is not None else RBAC(action=self.action)
        return self.enforced


@dataclass(frozen=True)
class Authorization:
    """A workload's policies, ready to become filters."""

    policies: Policies
    trust_domain: str
    mesh: MeshConfig = field(default_factory=MeshConfig)
    cluster: ClusterLookup = lambda host, port: None

    def http(self) -> list[HttpFilter]:
        """AUDIT, DENY and ALLOW for HTTP."""
        return [_http_filter(HTTP_RBAC, HttpRBAC(**self._fields(r))) for r in self._local(tcp=False)]

    def tcp(self) -> list[Filter]:
        """AUDIT, DENY and ALLOW for TCP."""
        configs = [TcpRBAC(stat_prefix="tcp.", **self._fields(r)) for r in self._local(tcp=True)]
        return [_tcp_filter(TCP_RBAC, config) for config in configs]

    def http_custom(self) -> list[HttpFilter]:
        """CUSTOM for HTTP: before the tokens are verified."""
        return self._custom(HTTP_RBAC, HTTP_EXT_AUTHZ, HttpRBAC, http_authorizer, _http_filter, tcp=False)

    def tcp_custom(self) -> list[Filter]:
        """CUSTOM for TCP; an authorizer that speaks HTTP can't be asked there and is left out."""
        return self._custom(TCP_RBAC, TCP_EXT_AUTHZ, _tcp_rbac, tcp_authorizer, _tcp_filter, tcp=True)

    def _local(self, *, tcp: bool) -> Iterator[_Rules]:
        for kind, action in ((Action.AUDIT, RBAC.LOG), (Action.DENY, RBAC.DENY), (Action.ALLOW, RBAC.ALLOW)):
            policies = [p for p in self.policies if p.spec.action is kind]
            if policies:
                yield self._rules(policies, action, tcp=tcp)

    def _rules(self, policies: Policies, action: int, *, tcp: bool, prefix: str = "") -> _Rules:
        rules = _Rules(action)
        for policy in policies:
            target = rules.of(policy)
            scope = Scope(policy.namespace, self.trust_domain, tcp, action)
            name = f"{prefix}ns[{policy.namespace}]-policy[{policy.name}]-rule"
            if not policy.spec.rules:
                target.policies[f"{name}[0]"].CopyFrom(never())
            for number, rule in enumerate(policy.spec.rules):
                try:
                    compiled = compile_rule(rule, scope)
                except Unmatchable:
                    continue
                target.policies[f"{name}[{number}]"].CopyFrom(compiled)
        return rules

    @staticmethod
    def _fields(rules: _Rules) -> dict[str, Any]:
        fields: dict[str, Any] = {"rules": rules.enforced, "shadow_rules": rules.trial}
        if rules.trial is not None:
            fields["shadow_rules_stat_prefix"] = _SHADOW_PREFIX[rules.action]
        return fields

    def _custom(
        self,
        rbac_name: str,
        authz_name: str,
        rbac: Callable[..., Any],
        authorizer: Callable[..., Any],
        wrap: Callable[[str, Any], Any],
        *,
        tcp: bool,
    ) -> list[Any]:
        custom = [p for p in self.policies if p.spec.action is Action.CUSTOM]
        names = sorted({p.spec.provider.name if p.spec.provider else "" for p in custom})
        filters = []
        for name in names:
            mine = [p for p in custom if (p.spec.provider.name if p.spec.provider else "") == name]
            prefix = f"{_CUSTOM_POLICY}-{name}-" if name else f"{_CUSTOM_POLICY}-"
            rules = self._rules(mine, RBAC.DENY, tcp=tcp, prefix=prefix)
            provider = self.mesh.provider(name)
            asked = authorizer(provider, self.cluster) if provider is not None else None
            if tcp and asked is None and provider is not None and provider.envoy_ext_authz_http is not None:
                continue
            # without its feature flag istiod takes one provider per workload and denies when there are two
            if asked is None or len(names) > 1:
                filters.append(wrap(rbac_name, rbac(rules=_denying(rules.enforced))))
                continue
            # a dry run of CUSTOM lands in the enforced rules, as in istiod, which says so in its comments
            noted = rbac(
                shadow_rules=rules.enforced if rules.enforced is not None else RBAC(action=RBAC.DENY),
                shadow_rules_stat_prefix=_CUSTOM_PREFIX,
                rules=rules.trial,
            )
            note = ValueMatcher(string_match=StringMatcher(prefix=f"{_CUSTOM_POLICY}-{name}"))
            effective = f"{_CUSTOM_PREFIX}shadow_effective_policy_id"
            asked.filter_enabled_metadata.CopyFrom(matching.metadata(rbac_name, [effective], note))
            filters += [wrap(rbac_name, noted), wrap(authz_name, asked)]
        return filters


def _denying(rules: RBAC | None) -> RBAC:
    out = RBAC(action=RBAC.DENY)
    for name, policy in rules.policies.items() if rules is not None else ():
        out.policies[name + _BAD_CUSTOM].CopyFrom(policy)
    return out


def _tcp_rbac(**fields: Any) -> TcpRBAC:
    return TcpRBAC(stat_prefix="tcp.", **fields)


def _http_filter(name: str, config: Any) -> HttpFilter:
    return HttpFilter(name=name, typed_config=packed(config))


def _tcp_filter(name: str, config: Any) -> Filter:
    return Filter(name=name, typed_config=packed(config))
