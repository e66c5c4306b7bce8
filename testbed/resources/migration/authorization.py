"""Outdated authorization to AuthorizationPolicy: policies with ``effect``, and the roles of rbac.istio.io."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ruamel.yaml.comments import CommentedMap

from testbed.documents import Path
from testbed.resources.migration.authentication import ROOT_NAMESPACE
from testbed.resources.migration.draft import Draft, elements, rename, sequence, take

_ACTIONS = ("ALLOW", "DENY", "AUDIT")


def policy(draft: Draft) -> None:
    """A policy whose rules (or which itself) has an ``effect``: one AuthorizationPolicy for each action."""
    spec = draft.spec
    old_kind = "/".join(draft.kind)
    draft.node["apiVersion"], draft.node["kind"] = "security.istio.io/v1", "AuthorizationPolicy"
    draft.changed(("kind",), f"{old_kind} is AuthorizationPolicy of security.istio.io now")
    default = str(take(spec, "effect") or spec.get("action") or "ALLOW").upper()
    by_action: dict[str, list[Any]] = {}
    for at, rule in elements(spec, "rules", ("spec",)):
        effect = take(rule, "effect")
        action = str(effect or default).upper()
        if effect is not None:
            draft.changed((*at, "effect"), f"is the policy's action now: {action}")
        if action not in _ACTIONS:
            draft.warn((*at, "effect"), f"{effect!r} is no action", "write ALLOW, DENY or AUDIT")
        by_action.setdefault(action, []).append(rule)
        _paths(draft, rule, at)
    actions = list(by_action) or [default]
    take(spec, "action")
    spec.insert(0, "action", actions[0])
    if len(actions) > 1:
        spec["rules"] = sequence(by_action[actions[0]])
        for action in actions[1:]:
            other = CommentedMap(spec)
            other["action"], other["rules"] = action, sequence(by_action[action])
            metadata = CommentedMap(name=f"{draft.name}-{action.lower()}", namespace=draft.namespace)
            draft.added.append(
                CommentedMap(
                    apiVersion="security.istio.io/v1", kind="AuthorizationPolicy", metadata=metadata, spec=other
                )
            )
        draft.changed(("spec", "rules"), f"one policy has one action: there are {len(actions)} now")
    if "ALLOW" in actions:
        allow_warning(draft, spec, by_action.get("ALLOW", []))


def allow_warning(draft: Draft, spec: CommentedMap, rules: list[Any]) -> None:
    """What an ALLOW policy does to everybody whom it does not name."""
    where = (
        "the workloads selected" if spec.get("selector") else f"all workloads of the namespace {draft.namespace}"
    )
    callers = sorted({str(caller) for rule in rules for caller in _callers(rule)})
    message = f"whatever no rule allows is denied from now on, for {where}, whoever asks"
    if callers:
        message += f"; only {', '.join(callers)} may call, and the gateway may not unless it is one of them"
    draft.warn(("spec", "rules"), message, "add a rule for every other caller, or a selector")


def _callers(rule: Any) -> Iterator[str]:
    for _, item in elements(rule, "from", ()):
        source = item.get("source") or {}
        yield from source.get("principals") or ()
        yield from (f"namespace {name}" for name in source.get("namespaces") or ())


def _paths(draft: Draft, rule: CommentedMap, at: Path) -> None:
    for where, to in elements(rule, "to", at):
        operation = to.get("operation") or {}
        for i, path in enumerate(operation.get("paths") or ()):
            if isinstance(path, str) and path.endswith("/*") and path[:-2] not in operation["paths"]:
                message = f"{path!r} does not match {path[:-2]!r} itself"
                draft.warn((*where, "operation", "paths", i), message, f"add {path[:-2]!r}, if it is meant too")


def roles(drafts: list[Draft]) -> None:
    """Each ServiceRoleBinding becomes an AuthorizationPolicy per service of its ServiceRole, which goes away."""
    by_name = {(d.namespace, d.name): d for d in drafts if d.kind == ("rbac.istio.io", "ServiceRole")}
    bound: set[tuple[str, str]] = set()
    for draft in drafts:
        if draft.kind != ("rbac.istio.io", "ServiceRoleBinding"):
            continue
        reference = draft.spec.get("roleRef") or {}
        name = str(reference.get("name") or draft.spec.get("role") or "")
        role = by_name.get((draft.namespace, name))
        if role is None:
            draft.warn(("spec", "roleRef"), f"no ServiceRole {name!r} in this file", "migrate both together")
            continue
        bound.add((draft.namespace, name))
        _bind(draft, role)
    for key, role in by_name.items():
        if key in bound:
            role.removed = True
            role.changed(("kind",), "its rules are in the AuthorizationPolicy of its binding now")
        else:
            role.warn(("kind",), "no ServiceRoleBinding in this file binds it: it allowed nothing", "remove it")


def _bind(draft: Draft, role: Draft) -> None:
    sources = [_source(draft, subject, at) for at, subject in elements(draft.spec, "subjects", ("spec",))]
    per_service: dict[str, list[CommentedMap]] = {}
    for at, rule in elements(role.spec, "rules", ("spec",)):
        for service in rule.get("services") or ["*"]:
            per_service.setdefault(str(service), []).append(_rule(role, rule, at, sources))
    made = []
    for i, (service, rules) in enumerate(per_service.items()):
        spec = CommentedMap()
        if service != "*":
            app = service.partition(".")[0].rstrip("*")
            spec["selector"] = CommentedMap(matchLabels=CommentedMap(app=app))
            message = f"the service {service!r} is the label app: {app} of its workloads now"
            role.warn(("spec", "rules"), message, "write the labels that they carry")
        spec["action"], spec["rules"] = "ALLOW", sequence(rules)
        name = draft.name if i == 0 else f"{draft.name}-{i + 1}"
        metadata = CommentedMap(name=name, namespace=draft.namespace)
        made.append(
            CommentedMap(
                apiVersion="security.istio.io/v1", kind="AuthorizationPolicy", metadata=metadata, spec=spec
            )
        )
    if not made:
        draft.warn(("spec",), f"the ServiceRole {role.name} has no rules", "nothing is allowed by it")
        return
    draft.node["apiVersion"], draft.node["kind"] = "security.istio.io/v1", "AuthorizationPolicy"
    draft.node["spec"] = made[0]["spec"]
    draft.added += made[1:]
    draft.changed(("kind",), f"with ServiceRole {role.name}: AuthorizationPolicy of security.istio.io now")
    allow_warning(draft, made[0]["spec"], list(made[0]["spec"]["rules"]))


def _source(draft: Draft, subject: CommentedMap, at: Path) -> tuple[CommentedMap, list[CommentedMap]]:
    source, when = CommentedMap(), []
    user = subject.get("user")
    if user and user != "*":
        source["principals"] = sequence([user], flow=True)
    for name in ("group", "groups"):
        if name in subject:
            draft.warn((*at, name), "groups can't be said", "write a when on request.auth.claims[groups]")
    for name in ("principals", "notPrincipals", "requestPrincipals", "namespaces", "notNamespaces", "ipBlocks"):
        if name in subject:
            source[name] = subject[name]
    names = {
        "source.principal": "principals",
        "source.namespace": "namespaces",
        "source.ip": "ipBlocks",
        "request.auth.principal": "requestPrincipals",
    }
    for key, value in (subject.get("properties") or {}).items():
        if key in names:
            source[names[key]] = sequence([value], flow=True)
        else:
            when.append(CommentedMap(key=key, values=sequence([value], flow=True)))
    return source, when


def _rule(
    role: Draft, rule: CommentedMap, at: Path, sources: list[tuple[CommentedMap, list[CommentedMap]]]
) -> CommentedMap:
    out = CommentedMap()
    callers = [CommentedMap(source=CommentedMap(source)) for source, _ in sources if source]
    if callers and len(callers) == len(sources):
        out["from"] = sequence(callers)
    elif not callers:
        role.warn(at, "its subjects are any caller, with or without an identity", "name the callers if you can")
    operation = CommentedMap()
    for name in ("hosts", "notHosts", "paths", "notPaths", "methods", "notMethods", "ports", "notPorts"):
        if rule.get(name) and list(rule[name]) != ["*"]:
            values = [str(value) for value in rule[name]] if "orts" in name else rule[name]
            operation[name] = sequence(values, flow=True)
    if operation:
        out["to"] = sequence([CommentedMap(operation=operation)])
    when = [condition for _, conditions in sources for condition in conditions]
    for where, constraint in elements(rule, "constraints", at):
        if str(constraint.get("key", "")).startswith("destination.labels"):
            role.warn(where, f"{constraint['key']} is a matter of the selector", "add the label to matchLabels")
        else:
            when.append(CommentedMap(constraint))
    if when:
        out["when"] = sequence(when)
    return out


def rbac_config(draft: Draft) -> None:
    """ClusterRbacConfig said where roles count; today the first ALLOW policy for a workload does."""
    mode = str(draft.spec.get("mode", "OFF"))
    inclusion = draft.spec.get("inclusion") or {}
    places = [ROOT_NAMESPACE] if mode == "ON" else list(inclusion.get("namespaces") or ())
    if mode == "OFF":
        draft.removed = True
        draft.changed(("kind",), "removed: authorization is off where no policy is")
        return
    if inclusion.get("services") or mode == "ON_WITH_EXCLUSION" or not places:
        message = f"mode {mode} with services or exclusions can't be said in one policy"
        draft.warn(("spec",), message, "write an AuthorizationPolicy with an empty spec for each place meant")
        if not places:
            return
    draft.node["apiVersion"], draft.node["kind"] = "security.istio.io/v1", "AuthorizationPolicy"
    metadata = draft.node["metadata"]
    metadata["name"], metadata["namespace"] = "allow-nothing", places[0]
    draft.node["spec"] = CommentedMap()
    for place in places[1:]:
        draft.added.append(_manifest(CommentedMap(name="allow-nothing", namespace=place), CommentedMap()))
    draft.changed(("kind",), f"is AuthorizationPolicy allow-nothing in {', '.join(places)} now")


def _manifest(metadata: CommentedMap, spec: CommentedMap) -> CommentedMap:
    return CommentedMap(apiVersion="security.istio.io/v1", kind="AuthorizationPolicy", metadata=metadata, spec=spec)


def rename_outdated(draft: Draft) -> None:
    """Small renamings inside an AuthorizationPolicy of today's group."""
    spec = draft.spec
    if "effect" in spec:
        rename(spec, "effect", "action")
        draft.changed(("spec", "effect"), "is action now")
    if any("effect" in rule for _, rule in elements(spec, "rules", ())):
        policy(draft)
