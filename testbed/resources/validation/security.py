"""What Istio refuses in the security kinds and in Telemetry."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping

from testbed.documents import Path
from testbed.resources.authentication import JWTRule, PeerAuthentication, RequestAuthentication
from testbed.resources.authorization import Action, AuthorizationPolicy, Condition, Operation, Rule, Source
from testbed.resources.telemetry import Telemetry
from testbed.resources.validation.names import Finding, selector_findings, subnet_fault
from testbed.resources.values import PolicyTargetReference, json_name

DRY_RUN = "istio.io/dry-run"
_TARGETS = {
    ("", "Service"),
    ("core", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
}
_HEADER = re.compile(r"[-_A-Za-z0-9]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]+")
_HTTP_ADDRESS = re.compile(r"https?://[^/?#@\s:]+(?::[0-9]{1,5})?(?:[/?#]\S*)?|https?://\[[0-9a-fA-F:.]+\]\S*")
_ADDRESSES = ("ip_blocks", "not_ip_blocks", "remote_ip_blocks", "not_remote_ip_blocks")
_NOT_CUSTOM = ("namespaces", "service_accounts", "trust_domains", "principals", "request_principals")
_KEYS = (
    "source.ip", "remote.ip", "source.namespace", "source.serviceAccount", "source.principal", "source.trustDomain",
    "request.auth.principal", "request.auth.audiences", "request.auth.presenter", "destination.ip",
    "destination.port", "connection.sni",
)  # fmt: skip
_MAP_KEYS = ("request.headers[", "request.auth.claims[", "experimental.envoy.filters.")


def peer_authentication(spec: PeerAuthentication, at: Path) -> Iterator[Finding]:
    """All findings."""
    labels = spec.selector.match_labels if spec.selector else {}
    yield from selector_findings(labels, (*at, "selector", "matchLabels"))
    if "port_level_mtls" in spec.model_fields_set and not (labels and spec.port_level_mtls):
        message = "portLevelMtls needs a port, and a selector: it is for workloads, not for a namespace or the mesh"
        yield (*at, "portLevelMtls"), message, "write selector.matchLabels"


def request_authentication(spec: RequestAuthentication, at: Path) -> Iterator[Finding]:
    """All findings."""
    yield from attachment_findings(spec, at)
    for i, rule in enumerate(spec.jwt_rules):
        yield from _jwt(rule, (*at, "jwtRules", i))


def telemetry(spec: Telemetry, at: Path) -> Iterator[Finding]:
    """All findings."""
    yield from attachment_findings(spec, at)
    for i, log in enumerate(spec.access_logging):
        for j, provider in enumerate(log.providers):
            if not provider.name:
                yield (*at, "accessLogging", i, "providers", j, "name"), "no provider's name", "write envoy, say"


def authorization_policy(spec: AuthorizationPolicy, annotations: Mapping[str, str], at: Path) -> Iterator[Finding]:
    """All findings."""
    yield from attachment_findings(spec, at)
    has_rules = "rules" in spec.model_fields_set
    if spec.action in (Action.CUSTOM, Action.DENY) and not has_rules:
        message = f"{spec.action} without rules never matches"
        yield at, message, "write 'rules: [{}]' for every request"
    if spec.action is Action.CUSTOM and has_rules and not (spec.provider and spec.provider.name):
        yield at, "CUSTOM without a provider", "write provider.name"
    if spec.provider is not None and spec.action is not Action.CUSTOM:
        yield (*at, "provider"), f"provider goes with action CUSTOM, not {spec.action}", "remove it"
    if DRY_RUN in annotations and (
        spec.action not in (Action.ALLOW, Action.DENY) or annotations[DRY_RUN].lower() not in ("true", "false")
    ):
        yield ("metadata", "annotations", DRY_RUN), "dry-run is true or false, for ALLOW and DENY", "correct it"
    for i, rule in enumerate(spec.rules):
        yield from _rule(rule, spec.action, (*at, "rules", i))


def attachment_findings(
    spec: AuthorizationPolicy | RequestAuthentication | Telemetry, at: Path
) -> Iterator[Finding]:
    """One of selector, targetRef and targetRefs, and what they name."""
    given = [json_name(n) for n in ("selector", "target_ref", "target_refs") if getattr(spec, n)]
    if len(given) > 1:
        yield (*at, given[1]), f"{' and '.join(given)} exclude each other", "keep one of them"
    if spec.selector is not None:
        yield from selector_findings(spec.selector.match_labels, (*at, "selector", "matchLabels"))
    if spec.target_ref is not None:
        yield from _target(spec.target_ref, (*at, "targetRef"))
    for i, target in enumerate(spec.target_refs):
        yield from _target(target, (*at, "targetRefs", i))


def _target(target: PolicyTargetReference, at: Path) -> Iterator[Finding]:
    if not target.name:
        yield (*at, "name"), "no name", "write the name of the target"
    if (target.group, target.kind) not in _TARGETS:
        known = "Service, ServiceEntry, Gateway or GatewayClass (gateway.networking.k8s.io)"
        yield (*at, "kind"), f"{target.group}/{target.kind} can't be a target", f"write {known}"


def _jwt(rule: JWTRule, at: Path) -> Iterator[Finding]:
    if not rule.issuer and not rule.jwks_uri:
        yield at, "no issuer and no jwksUri", "write the issuer"
    if rule.jwks and rule.jwks_uri:
        yield (*at, "jwks"), "jwks and jwksUri exclude each other", "keep one of them"
    if rule.jwks_uri and not _HTTP_ADDRESS.fullmatch(rule.jwks_uri):
        yield (*at, "jwksUri"), f"{rule.jwks_uri!r} is no http(s) address", "write https://host/path"
    if rule.jwks and (fault := _jwks_fault(rule.jwks)):
        yield (*at, "jwks"), fault, 'write {"keys": […]} (RFC 7517)'
    lists: dict[str, Iterable[str]] = {
        "audiences": rule.audiences,
        "fromParams": rule.from_params,
        "fromCookies": rule.from_cookies,
        "spaceDelimitedClaims": rule.space_delimited_claims,
        "fromHeaders": [header.name for header in rule.from_headers],
    }
    for name, values in lists.items():
        for i, value in enumerate(values):
            if not value:
                yield (*at, name, i), f"an empty entry in {name}", "write it, or remove it"
    for i, copied in enumerate(rule.output_claim_to_headers):
        if not copied.claim or not _HEADER.fullmatch(copied.header):
            message = "needs a claim and a header name of letters, digits, '-', '_'"
            yield (*at, "outputClaimToHeaders", i), message, "correct it"


def _jwks_fault(text: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "jwks is no JSON"
    keys = value.get("keys", [value]) if isinstance(value, dict) else None
    if not isinstance(keys, list) or not all(isinstance(k, dict) and "kty" in k for k in keys):
        return "jwks holds no keys with a kty"
    return ""


def _rule(rule: Rule, action: Action, at: Path) -> Iterator[Finding]:
    for name, field, values in (("from", "from_", rule.from_), ("to", "to", rule.to)):
        if field in rule.model_fields_set and not values:
            yield (*at, name), f"an empty {name}", "write an entry, or remove it"
    for i, wrapper in enumerate(rule.from_):
        here = (*at, "from", i, "source")
        if wrapper.source is None or not _given(wrapper.source):
            yield here, "an empty source", "write a field below source; to mean any caller, leave from out"
        else:
            yield from _source(wrapper.source, action, here)
    for i, to in enumerate(rule.to):
        here = (*at, "to", i, "operation")
        if to.operation is None or not _given(to.operation):
            yield here, "an empty operation", "write a field below operation; to mean any request, leave to out"
        else:
            yield from _operation(to.operation, here)
    for i, condition in enumerate(rule.when):
        yield from _condition(condition, action, (*at, "when", i))


def _given(fields: Source | Operation) -> dict[str, tuple[str, ...]]:
    return {name: value for name in type(fields).model_fields if (value := getattr(fields, name))}


def _source(source: Source, action: Action, at: Path) -> Iterator[Finding]:
    given = _given(source)
    if any("service_accounts" in name for name in given) and any(
        name.removeprefix("not_") in ("principals", "namespaces") for name in given
    ):
        yield (*at, "serviceAccounts"), "serviceAccounts excludes principals and namespaces", "keep one of them"
    for name, values in given.items():
        here = (*at, json_name(name))
        if action is Action.CUSTOM and name.removeprefix("not_") in _NOT_CUSTOM:
            yield here, f"Istio refuses {json_name(name)} with CUSTOM", "select by ipBlocks, or by the operation"
        for i, value in enumerate(values):
            yield from _source_value(name, value, (*here, i))


def _source_value(name: str, value: str, at: Path) -> Iterator[Finding]:
    if not value:
        yield at, "an empty value", "write it, or remove it"
    elif name in _ADDRESSES:
        if fault := subnet_fault(value):
            yield at, fault, "write 10.1.2.3 or 10.1.0.0/16"
    elif name.endswith("service_accounts"):
        if fault := _account_fault(value):
            yield at, fault, "write account or namespace/account"
    elif name.endswith("trust_domains") and (fault := _wildcard_fault(value)):
        yield at, fault, "write cluster.local, say"


def _account_fault(value: str) -> str:
    if "*" in value:
        return "serviceAccounts takes no wildcard"
    if value.count("/") > 1 or not all(value.split("/")):
        return f"{value!r} is no service account"
    return ""


def _wildcard_fault(value: str) -> str:
    if "/" in value:
        return f"{value!r} is no trust domain"
    inner = value[1:-1] if len(value) > 1 else ""
    if value.count("*") > 1 or "*" in inner:
        return f"{value!r}: one '*' is allowed, at the start or the end"
    return ""


def _operation(operation: Operation, at: Path) -> Iterator[Finding]:
    for name, values in _given(operation).items():
        for i, value in enumerate(values):
            here = (*at, json_name(name), i)
            if not value:
                yield here, "an empty value", "write it, or remove it"
            elif name.endswith("ports") and not (value.isascii() and value.isdigit() and int(value) <= 65535):
                yield here, f"{value!r} is no port", "write a number up to 65535, in quotes"
            elif name.endswith("paths") and (fault := path_template_fault(value)):
                yield here, fault, "write {*} for one segment, {**} at the end for any number"


def path_template_fault(path: str) -> str:
    """Envoy's path templates as Istio lets them: ``{*}`` is one segment, ``{**}`` the last."""
    is_template = "{*}" in path or "{**}" in path
    ended = False
    for segment in path.strip("/").split("/"):
        if segment in ("{*}", "{**}"):
            if ended:
                return f"{path!r}: {{**}} is not the last"
            ended = segment == "{**}"
        elif "{" in segment or "}" in segment:
            return f"{path!r}: braces outside of {{*}} and {{**}}"
        elif is_template and not _SEGMENT.fullmatch(segment):
            return f"{path!r}: the segment {segment!r} can't stand in a template"
    return ""


def _condition(condition: Condition, action: Action, at: Path) -> Iterator[Finding]:
    key, values = condition.key, (*condition.values, *condition.not_values)
    if key not in _KEYS and not key.startswith(_MAP_KEYS):
        known = "request.headers[NAME], request.auth.claims[NAME], " + ", ".join(_KEYS)
        advice = {
            "destination.namespace": "the policy's own namespace says that",
            "destination.labels": "write selector.matchLabels",
        }.get(key.partition("[")[0], f"write one of {known}")
        yield (*at, "key"), f"unknown key {key!r}", advice
        return
    if key.startswith(_MAP_KEYS) and not re.fullmatch(r"[^\[]+\[.+\]", key):
        yield (*at, "key"), f"{key!r} lacks its brackets", "write request.headers[NAME]"
    if action is Action.CUSTOM and (
        key.startswith("request.auth.")
        or key in ("source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal")
    ):
        yield (*at, "key"), f"Istio refuses {key} with CUSTOM", "decide by address or request"
    if not values:
        yield at, "no values and no notValues", "write at least one"
    for name, given in (("values", condition.values), ("notValues", condition.not_values)):
        for i, value in enumerate(given):
            if fault := _value_fault(key, value):
                yield (*at, name, i), fault, "correct it"


def _value_fault(key: str, value: str) -> str:
    if not value:
        return "an empty value"
    if key in ("source.ip", "remote.ip", "destination.ip"):
        return subnet_fault(value)
    if key == "destination.port" and not (value.isascii() and value.isdigit() and int(value) <= 65535):
        return f"{value!r} is no port"
    if key == "source.serviceAccount":
        return _account_fault(value)
    return _wildcard_fault(value) if key == "source.trustDomain" else ""
