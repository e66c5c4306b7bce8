"""Ways to break a resource, each with a name: small lies that a good scenario must notice.

Every operator takes a manifest in plain values and yields (what was done, the changed manifest), or None in its
place for a resource that is dropped.  Operators never touch what they were given.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

Manifest = dict[str, Any]
Broken = tuple[str, Manifest | None]
Operator = Callable[[Manifest, float], Iterator[Broken]]

POOL_LIMITS = {
    "maxConnections",
    "http1MaxPendingRequests",
    "http2MaxRequests",
    "maxRequestsPerConnection",
    "maxConcurrentStreams",
    "maxRetries",
}
"""Limits of a connection pool that are counts; 0 means none."""
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h)$")


def weights(manifest: Manifest, points: float) -> Iterator[Broken]:
    """Weights swapped between a route's destinations; shifted by twice the tolerance."""
    for i, rule in _rules(manifest):
        arms = rule.get("route", [])
        given = [a.get("weight", 0) for a in arms]
        if len(arms) < 2:
            continue
        if len(set(given)) > 1:
            changed, target = _copy(manifest, i)
            for arm, weight in zip(target["route"], given[1:] + given[:1], strict=True):
                arm["weight"] = weight
            yield f"http[{i}]: weights swapped", changed
        top, low = given.index(max(given)), len(given) - 1 - given[::-1].index(min(given))
        top = top if top != low else 0
        shift = min(given[top], max(1, round(2 * points * sum(given) / 100)))
        changed, target = _copy(manifest, i)
        target["route"][top]["weight"] = given[top] - shift
        target["route"][low]["weight"] = given[low] + shift
        yield f"http[{i}]: weights shifted by {shift}", changed


def destinations(manifest: Manifest, _: float) -> Iterator[Broken]:
    """Two rules with one destination each change places; a lone rule's subset becomes another."""
    lone = [(i, r) for i, r in _rules(manifest) if len(r.get("route", [])) == 1]
    for (i, one), (j, other) in pairwise(lone):
        if one["route"] != other["route"]:
            changed, target = _copy(manifest, i)
            second = changed["spec"]["http"][j]
            target["route"], second["route"] = second["route"], target["route"]
            yield f"http[{i}] and http[{j}]: destinations swapped", changed
    if len(lone) == 1 and len(manifest["spec"]["http"]) == 1:
        i, rule = lone[0]
        subset = rule["route"][0].get("destination", {}).get("subset")
        if subset:
            changed, target = _copy(manifest, i)
            target["route"][0]["destination"]["subset"] = "v2" if subset == "v1" else "v1"
            yield f"http[{i}]: subset {subset} replaced", changed


def matches(manifest: Manifest, _: float) -> Iterator[Broken]:
    """A value that a rule matches is misspelt."""
    for i, rule in _rules(manifest):
        for j, match in enumerate(rule.get("match", [])):
            for path, text in _matched(match):
                changed, target = _copy(manifest, i)
                holder = target["match"][j]
                for part in path[:-1]:
                    holder = holder[part]
                holder[path[-1]] = _misspelt(text, path[-1])
                yield f"http[{i}].match[{j}]: {'.'.join(path)} misspelt", changed


def timeouts(manifest: Manifest, _: float) -> Iterator[Broken]:
    """A timeout doubled."""
    for i, rule in _rules(manifest):
        if "timeout" in rule:
            changed, target = _copy(manifest, i)
            target["timeout"] = _times(rule["timeout"], 2)
            yield f"http[{i}]: timeout {rule['timeout']} doubled", changed


def retries(manifest: Manifest, _: float) -> Iterator[Broken]:
    """Retries off by one, both ways; no pause worth the name; twice the time for a try; fewer causes."""
    for i, rule in _rules(manifest):
        attempts = rule.get("retries", {}).get("attempts")
        if attempts is None:
            continue
        for other in (attempts + 1, attempts - 1):
            if other >= 0:
                changed, target = _copy(manifest, i)
                target["retries"]["attempts"] = other
                yield f"http[{i}]: retries {attempts} -> {other}", changed
        if "backoff" in rule["retries"]:
            changed, target = _copy(manifest, i)
            del target["retries"]["backoff"]
            yield f"http[{i}]: backoff dropped", changed
        if own := rule["retries"].get("perTryTimeout"):
            changed, target = _copy(manifest, i)
            target["retries"]["perTryTimeout"] = _times(own, 2)
            yield f"http[{i}]: perTryTimeout {own} doubled", changed
        if "retryOn" in rule["retries"]:
            changed, target = _copy(manifest, i)
            del target["retries"]["retryOn"]
            yield f"http[{i}]: retryOn dropped", changed


def injected(manifest: Manifest, _: float) -> Iterator[Broken]:
    """An injected fault that is dropped, doubled, or another."""
    for i, rule in _rules(manifest):
        fault = rule.get("fault", {})
        for kind in fault:
            changed, target = _copy(manifest, i)
            del target["fault"][kind]
            if not target["fault"]:
                del target["fault"]
            yield f"http[{i}]: {kind} dropped", changed
        if "fixedDelay" in fault.get("delay", {}):
            changed, target = _copy(manifest, i)
            target["fault"]["delay"]["fixedDelay"] = _times(fault["delay"]["fixedDelay"], 2)
            yield f"http[{i}]: delay doubled", changed
        if "httpStatus" in fault.get("abort", {}):
            changed, target = _copy(manifest, i)
            target["fault"]["abort"]["httpStatus"] = 500 if fault["abort"]["httpStatus"] != 500 else 503
            yield f"http[{i}]: abort with another status", changed


def mirrors(manifest: Manifest, _: float) -> Iterator[Broken]:
    """Mirroring dropped, or of half the requests."""
    for i, rule in _rules(manifest):
        if "mirror" in rule or "mirrors" in rule:
            changed, target = _copy(manifest, i)
            for field in ("mirror", "mirrors", "mirrorPercentage"):
                target.pop(field, None)
            yield f"http[{i}]: mirror dropped", changed
        share = rule.get("mirrorPercentage", {}).get("value", 100 if "mirror" in rule else None)
        if share:
            changed, target = _copy(manifest, i)
            target["mirrorPercentage"] = {"value": share / 2}
            yield f"http[{i}]: mirrorPercentage {share:g} -> {share / 2:g}", changed
        for j, mirror in enumerate(rule.get("mirrors", [])):
            changed, target = _copy(manifest, i)
            half = mirror.get("percentage", {}).get("value", 100) / 2
            target["mirrors"][j]["percentage"] = {"value": half}
            yield f"http[{i}].mirrors[{j}]: percentage -> {half:g}", changed


def rewriting(manifest: Manifest, _: float) -> Iterator[Broken]:
    """A rewrite, redirect or header operation dropped."""
    for i, rule in _rules(manifest):
        for field in ("rewrite", "headers"):
            if field in rule:
                changed, target = _copy(manifest, i)
                del target[field]
                yield f"http[{i}]: {field} dropped", changed


def labels(manifest: Manifest, _: float) -> Iterator[Broken]:
    """A subset's label that no workload has."""
    for i, subset in enumerate(manifest.get("spec", {}).get("subsets", [])):
        for label, value in subset.get("labels", {}).items():
            changed = copy.deepcopy(manifest)
            changed["spec"]["subsets"][i]["labels"][label] = f"{value}-wrong"
            yield f"subset {subset['name']}: label {label} wrong", changed


def balancing(manifest: Manifest, _: float) -> Iterator[Broken]:
    """Another load balancer."""
    for holder, at in _policies(manifest):
        balancer = holder.get("loadBalancer", {})
        if "consistentHash" in balancer:
            changed = copy.deepcopy(manifest)
            _at(changed, at)["loadBalancer"] = {"simple": "ROUND_ROBIN"}
            yield "consistent hash dropped", changed
        elif simple := balancer.get("simple"):
            other = "RANDOM" if simple == "ROUND_ROBIN" else "ROUND_ROBIN"
            changed = copy.deepcopy(manifest)
            _at(changed, at)["loadBalancer"]["simple"] = other
            yield f"{simple} -> {other}", changed


def pools(manifest: Manifest, _: float) -> Iterator[Broken]:
    """Connection pools without limits, or with each of them one higher."""
    yield from _without(manifest, "connectionPool")
    for holder, at in _policies(manifest):
        for kind, values in holder.get("connectionPool", {}).items():
            for field, value in values.items():
                if field in POOL_LIMITS and value:
                    changed = copy.deepcopy(manifest)
                    _at(changed, at)["connectionPool"][kind][field] = value + 1
                    yield f"{field} {value} -> {value + 1}", changed


def budgets(manifest: Manifest, _: float) -> Iterator[Broken]:
    """Retries without a budget."""
    yield from _without(manifest, "retryBudget")


def outliers(manifest: Manifest, _: float) -> Iterator[Broken]:
    """Outlier detection dropped, slower to act, or giving an instance back much sooner or later."""
    yield from _without(manifest, "outlierDetection")
    for holder, at in _policies(manifest):
        detection = holder.get("outlierDetection", {})
        changes: dict[str, tuple[Any, ...]] = {}
        if errors := detection.get("consecutive5xxErrors"):
            changes["consecutive5xxErrors"] = (errors * 4,)
        if base := detection.get("baseEjectionTime"):
            changes["baseEjectionTime"] = (_times(base, 0.25), _times(base, 4))
        for field, values in changes.items():
            for value in values:
                changed = copy.deepcopy(manifest)
                _at(changed, at)["outlierDetection"][field] = value
                yield f"{field} {detection[field]} -> {value}", changed


def _without(manifest: Manifest, field: str) -> Iterator[Broken]:
    for holder, at in _policies(manifest):
        if field in holder:
            changed = copy.deepcopy(manifest)
            del _at(changed, at)[field]
            if not _at(changed, at):
                del _at(changed, at[:-1])["trafficPolicy"]
            yield f"{field} dropped", changed


def transport(manifest: Manifest, _: float) -> Iterator[Broken]:
    """Mutual TLS weaker than it was: callers send plaintext, or servers take it."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "PeerAuthentication" and spec.get("mtls", {}).get("mode") == "STRICT":
        changed = copy.deepcopy(manifest)
        changed["spec"]["mtls"]["mode"] = "PERMISSIVE"
        yield "PERMISSIVE for STRICT", changed
    for holder, at in _policies(manifest):
        if "tls" in holder and holder["tls"].get("mode") != "DISABLE":
            changed = copy.deepcopy(manifest)
            _at(changed, at)["tls"] = {"mode": "DISABLE"}
            yield "tls disabled", changed


def policies(manifest: Manifest, _: float) -> Iterator[Broken]:
    """A policy dropped, turned round, or about other callers, methods or paths than it was."""
    if manifest["kind"] not in ("AuthorizationPolicy", "RequestAuthentication"):
        return
    yield "dropped", None
    spec = manifest.get("spec", {})
    action = spec.get("action", "ALLOW")
    if manifest["kind"] == "AuthorizationPolicy" and action in ("ALLOW", "DENY") and spec.get("rules"):
        changed = copy.deepcopy(manifest)
        changed["spec"]["action"] = "DENY" if action == "ALLOW" else "ALLOW"
        yield f"{action} turned round", changed
    for i, rule in enumerate(spec.get("rules", [])):
        for side, kind in (("from", "source"), ("to", "operation")):
            for j, entry in enumerate(rule.get(side, [])):
                for field in entry.get(kind, {}):
                    changed = copy.deepcopy(manifest)
                    holder = changed["spec"]["rules"][i][side][j][kind]
                    holder[field] = [_other(field, v) for v in holder[field]]
                    place = f".{side}[{j}]" if len(rule[side]) > 1 else ""
                    yield f"rules[{i}]{place}: {field} wrong", changed
    for i, rule in enumerate(spec.get("jwtRules", [])):
        changed = copy.deepcopy(manifest)
        changed["spec"]["jwtRules"][i]["issuer"] = f"{rule['issuer']}-wrong"
        yield f"jwtRules[{i}]: issuer wrong", changed
        if other := _other_keys(rule.get("jwks", "")):
            changed = copy.deepcopy(manifest)
            changed["spec"]["jwtRules"][i]["jwks"] = other
            yield f"jwtRules[{i}]: jwks of another issuer", changed


def egress(manifest: Manifest, _: float) -> Iterator[Broken]:
    """A workload that may call whatever it likes."""
    if manifest.get("spec", {}).get("outboundTrafficPolicy", {}).get("mode") == "REGISTRY_ONLY":
        changed = copy.deepcopy(manifest)
        changed["spec"]["outboundTrafficPolicy"]["mode"] = "ALLOW_ANY"
        yield "REGISTRY_ONLY -> ALLOW_ANY", changed


def dropped(manifest: Manifest, _: float) -> Iterator[Broken]:
    """Resources whose being there is the point."""
    if manifest["kind"] in ("ServiceEntry", "Sidecar"):
        yield "dropped", None


OPERATORS: dict[str, tuple[Operator, ...]] = {
    "VirtualService": (weights, destinations, matches, timeouts, retries, injected, mirrors, rewriting),
    "DestinationRule": (labels, balancing, pools, budgets, outliers, transport),
    "PeerAuthentication": (transport,),
    "AuthorizationPolicy": (policies,),
    "RequestAuthentication": (policies,),
    "ServiceEntry": (dropped,),
    "Sidecar": (dropped, egress),
}


def broken(manifest: Manifest, points: float) -> Iterator[Broken]:
    """Every way to break the manifest; ``points`` is the tolerance of the claims about it, in percent."""
    for operator in OPERATORS.get(manifest["kind"], ()):
        yield from operator(manifest, points)


def _rules(manifest: Manifest) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from enumerate(manifest.get("spec", {}).get("http", []))


def _copy(manifest: Manifest, rule: int) -> tuple[Manifest, dict[str, Any]]:
    changed = copy.deepcopy(manifest)
    return changed, changed["spec"]["http"][rule]


def _policies(manifest: Manifest) -> Iterator[tuple[dict[str, Any], tuple[str | int, ...]]]:
    spec = manifest.get("spec", {})
    if "trafficPolicy" in spec:
        yield spec["trafficPolicy"], ("spec", "trafficPolicy")
    for i, subset in enumerate(spec.get("subsets", [])):
        if "trafficPolicy" in subset:
            yield subset["trafficPolicy"], ("spec", "subsets", i, "trafficPolicy")


def _at(manifest: Manifest, path: tuple[str | int, ...]) -> dict[str, Any]:
    value: Any = manifest
    for part in path:
        value = value[part]
    found: dict[str, Any] = value
    return found


def _matched(match: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every string match in an HTTPMatchRequest: its path and its text."""
    if isinstance(match, dict):
        for key, value in match.items():
            if key in ("exact", "prefix", "regex") and isinstance(value, str):
                yield (*path, key), value
            else:
                yield from _matched(value, (*path, key))


def _misspelt(text: str, kind: str) -> str:
    return f"{text}-wrong" if kind != "regex" else f"({text})-wrong"


def _other(field: str, value: str) -> str:
    if field == "methods":
        return "PATCH"
    if field in ("ports", "notPorts"):
        return str(int(value) + 1)
    if field in ("ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"):
        return "192.0.2.0/24"
    return f"{value}-wrong"


def _times(duration: str, factor: float) -> str:
    found = _DURATION.match(duration)
    return f"{float(found[1]) * factor:g}{found[2]}" if found else duration


def _other_keys(jwks: str) -> str:
    """The same keys with another modulus each: what they signed is no longer valid.  Empty where there is none."""
    try:
        keys = json.loads(jwks)
    except ValueError:
        return ""
    changed = False
    for key in keys.get("keys", []):
        for part in ("n", "x", "k"):
            if value := key.get(part, ""):
                middle = len(value) // 2
                key[part] = value[:middle] + ("A" if value[middle] != "A" else "B") + value[middle + 1 :]
                changed = True
    return json.dumps(keys) if changed else ""
