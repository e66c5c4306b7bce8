"""Outdated forms of VirtualService, DestinationRule and Gateway."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ruamel.yaml.comments import CommentedMap

from testbed.documents import Path
from testbed.resources.migration.draft import Draft, below, elements, mappings, rename, sequence, take
from testbed.resources.values import seconds

_HEADER_FORMS = {
    "appendHeaders": ("request", "add"),
    "appendRequestHeaders": ("request", "add"),
    "removeRequestHeaders": ("request", "remove"),
    "appendResponseHeaders": ("response", "add"),
    "removeResponseHeaders": ("response", "remove"),
}


def virtual_service(draft: Draft) -> None:
    """Rewrite ``http`` rules."""
    for at, rule in elements(draft.spec, "http", ("spec",)):
        _retry_policy(draft, rule, at)
        for where, node in ((at, rule), *elements(rule, "route", at)):
            _headers(draft, node, where)
        if "websocketUpgrade" in rule:
            take(rule, "websocketUpgrade")
            draft.changed((*at, "websocketUpgrade"), "removed: websockets always work")
        for name in ("mirror_percent", "mirrorPercent"):
            if name in rule:
                rename(rule, name, "mirrorPercentage", CommentedMap(value=rule[name]))
                draft.changed((*at, name), "is mirrorPercentage.value now")
        for part in ("delay", "abort"):
            fault = (rule.get("fault") or {}).get(part)
            if isinstance(fault, CommentedMap) and "percent" in fault:
                rename(fault, "percent", "percentage", CommentedMap(value=fault["percent"]))
                draft.changed((*at, "fault", part, "percent"), "is percentage.value now")
        cors = rule.get("corsPolicy")
        if isinstance(cors, CommentedMap) and "allowOrigin" in cors:
            origins = sequence([CommentedMap(exact=origin) for origin in cors["allowOrigin"] or ()])
            rename(cors, "allowOrigin", "allowOrigins", origins)
            draft.changed((*at, "corsPolicy", "allowOrigin"), "is allowOrigins now, a list of matches")
        _paths(draft, rule, at)
        _port_names(draft, rule, at)


def _retry_policy(draft: Draft, rule: CommentedMap, at: Path) -> None:
    policy = rule.get("retryPolicy")
    if not isinstance(policy, CommentedMap):
        return
    here = (*at, "retryPolicy")
    if "retries" in rule:
        take(rule, "retryPolicy")
        draft.changed(here, "removed: retries is there already")
        return
    rename(rule, "retryPolicy", "retries")
    draft.changed(here, "is retries now")
    for old in ("maxAttempts", "maxRetries", "numRetries"):
        if old in policy and "attempts" not in policy:
            rename(policy, old, "attempts")
            draft.changed((*here, old), "is attempts now")
            message = f"attempts counts retries: a failing request is sent {_plus_one(policy['attempts'])} times"
            draft.warn((*here, old), message, "lower it by one, if the first try was counted")
    timeout, per_try = _seconds(rule.get("timeout")), _seconds(policy.get("perTryTimeout"))
    if timeout and per_try and per_try >= timeout:
        message = (
            f"a try may take as long ({policy['perTryTimeout']}) as the whole request ({rule['timeout']}), so a"
        )
        message += " try that runs out of time is never followed by another; failures that come quickly are retried"
        draft.warn((*here, "perTryTimeout"), message, "raise timeout, or lower perTryTimeout")


def _plus_one(attempts: object) -> object:
    return attempts + 1 if isinstance(attempts, int) else "one more"


def _seconds(value: object) -> float:
    try:
        return seconds(value)
    except ValueError:
        return 0.0


def _headers(draft: Draft, node: CommentedMap, at: Path) -> None:
    for old, (side, operation) in _HEADER_FORMS.items():
        if old not in node:
            continue
        value = take(node, old)
        operations = below(node, "headers", side)
        if operation == "remove":
            operations[operation] = sequence([*(operations.get(operation) or ()), *(value or ())])
        else:
            operations[operation] = value if operation not in operations else {**operations[operation], **value}
        draft.changed((*at, old), f"is headers.{side}.{operation} now")


def _paths(draft: Draft, rule: CommentedMap, at: Path) -> None:
    for where, match in elements(rule, "match", at):
        uri = match.get("uri")
        if not isinstance(uri, CommentedMap):
            continue
        for form in ("prefix", "exact"):
            value = uri.get(form)
            if isinstance(value, str) and value.endswith("/*"):
                plain = value.removesuffix("*")
                rename(uri, form, "prefix", plain)
                here = (*where, "uri", form)
                draft.changed(
                    here, f"{form} {value!r} is prefix {plain!r} now: a star is an ordinary character there"
                )
                draft.warn(
                    here, f"{plain!r} does not match {plain[:-1]!r} itself", f"write {plain[:-1]!r} for both"
                )


def _port_names(draft: Draft, rule: CommentedMap, at: Path) -> None:
    for where, node in mappings(rule, at):
        port = node.get("port")
        if "host" in node and isinstance(port, CommentedMap) and "name" in port:
            message = f"the port's name {port['name']!r} can't be looked up here"
            draft.warn((*where, "port", "name"), message, "write port.number")


def destination_rule(draft: Draft, drafts: Iterable[Draft]) -> None:
    """Rewrite traffic policies; retries go into the VirtualServices among ``drafts`` that route to the host."""
    spec = draft.spec
    policies: list[tuple[Path, Any]] = [(("spec", "trafficPolicy"), spec.get("trafficPolicy"))]
    policies += [((*at, "trafficPolicy"), s.get("trafficPolicy")) for at, s in elements(spec, "subsets", ("spec",))]
    for at, policy in policies:
        if not isinstance(policy, CommentedMap):
            continue
        for where, part in ((at, policy), *elements(policy, "portLevelSettings", at)):
            _pool(draft, part, where, drafts)
            _balancer(draft, part.get("loadBalancer"), (*where, "loadBalancer"))
            _outliers(draft, part.get("outlierDetection"), (*where, "outlierDetection"))


def _pool(draft: Draft, policy: CommentedMap, at: Path, drafts: Iterable[Draft]) -> None:
    pool = policy.get("connectionPool")
    http = pool.get("http") if isinstance(pool, CommentedMap) else None
    if not isinstance(http, CommentedMap):
        return
    here = (*at, "connectionPool", "http")
    if "connectTimeout" in http:
        value = take(http, "connectTimeout")
        tcp = below(pool, "tcp")
        if "connectTimeout" not in tcp:
            tcp["connectTimeout"] = value
        draft.changed((*here, "connectTimeout"), "is connectionPool.tcp.connectTimeout now")
    policy_of_retries = take(http, "retryPolicy") if "retryPolicy" in http else None
    if isinstance(policy_of_retries, CommentedMap):
        _retries(draft, policy_of_retries, (*here, "retryPolicy"), drafts)
    if not http:
        take(pool, "http")


def _retries(draft: Draft, policy: CommentedMap, at: Path, drafts: Iterable[Draft]) -> None:
    """A pool has no retries: their number and first pause go to routes, the rest can't be said."""
    retries: dict[str, Any] = {}
    if "maxRetries" in policy:
        retries["attempts"] = policy["maxRetries"]
    if "initialIntervalSeconds" in policy:
        retries["backoff"] = f"{policy['initialIntervalSeconds']}s"
    host = draft.spec.get("host")
    routed = 0
    for other in drafts:
        if other.kind[1] != "VirtualService" or (other.namespace, host) == (draft.namespace, None):
            continue
        for where, rule in elements(other.spec, "http", ("spec",)):
            hosts = [(part.get("destination") or {}).get("host") for _, part in elements(rule, "route", where)]
            if host in hosts and other.namespace == draft.namespace and "retries" not in rule:
                rule["retries"] = CommentedMap(retries)
                other.changed(where, f"has the retries of DestinationRule {draft.name} now")
                routed += 1
    written = ", ".join(f"{name}: {value}" for name, value in retries.items())
    draft.changed(at, f"removed: retries are a route's ({written}), a connection pool has none")
    if not routed:
        message = f"no VirtualService in this file routes to {host}, so its retries are not written anywhere"
        draft.warn(at, message, f"write 'retries: {{{written}}}' into its http routes")
    if "maxRetries" in policy:
        message = "connectionPool.http.maxRetries is another thing (a limit of retries under way at one time)"
        draft.warn((*at, "maxRetries"), message, "leave it out unless you mean that")
    if "backoffFactor" in policy:
        factor = policy["backoffFactor"]
        same = "which is what Envoy does" if factor in (2, 2.0) else "and that can't be changed"
        message = (
            f"backoffFactor {factor} can't be said: the pause doubles from try to try (at random up to it), {same}"
        )
        draft.warn((*at, "backoffFactor"), message)
    if "maxIntervalSeconds" in policy:
        message = (
            f"maxIntervalSeconds {policy['maxIntervalSeconds']} can't be said: Istio's longest pause is ten times"
        )
        draft.warn((*at, "maxIntervalSeconds"), message + " backoff", "choose backoff by that")


def _balancer(draft: Draft, balancer: object, at: Path) -> None:
    if not isinstance(balancer, CommentedMap):
        return
    if balancer.get("simple") == "LEAST_CONN":
        balancer["simple"] = "LEAST_REQUEST"
        draft.changed((*at, "simple"), "LEAST_CONN is LEAST_REQUEST now")
    if "warmupDurationSecs" in balancer and "warmup" not in balancer:
        rename(balancer, "warmupDurationSecs", "warmup", CommentedMap(duration=balancer["warmupDurationSecs"]))
        draft.changed((*at, "warmupDurationSecs"), "is warmup.duration now")
    hash_ = balancer.get("consistentHash")
    if isinstance(hash_, CommentedMap) and "minimumRingSize" in hash_ and not {"ringHash", "maglev"} & set(hash_):
        rename(hash_, "minimumRingSize", "ringHash", CommentedMap(minimumRingSize=hash_["minimumRingSize"]))
        draft.changed((*at, "consistentHash", "minimumRingSize"), "is ringHash.minimumRingSize now")


def _outliers(draft: Draft, outliers: object, at: Path) -> None:
    if isinstance(outliers, CommentedMap) and "consecutiveErrors" in outliers:
        here = (*at, "consecutiveErrors")
        if {"consecutive5xxErrors", "consecutiveGatewayErrors"} & set(outliers):
            take(outliers, "consecutiveErrors")
            draft.changed(here, "removed: Istio 1.30 ignores it, and its successor is there")
        else:
            rename(outliers, "consecutiveErrors", "consecutiveGatewayErrors")
            draft.changed(here, "is consecutiveGatewayErrors now")
            message = "Istio 1.30 ignored it; from now on endpoints are ejected by it (answers 502, 503, 504)"
            draft.warn(here, message, "write consecutive5xxErrors to count every 5xx")


def gateway(draft: Draft) -> None:
    """Rewrite servers."""
    for at, server in elements(draft.spec, "servers", ("spec",)):
        port = server.get("port")
        if isinstance(port, CommentedMap) and "targetPort" in port:
            take(port, "targetPort")
            draft.changed((*at, "port", "targetPort"), "removed: it does nothing at a Gateway")
