"""``authentication.istio.io`` Policy and MeshPolicy to PeerAuthentication and RequestAuthentication."""

from __future__ import annotations

from typing import Any

from ruamel.yaml.comments import CommentedMap

from testbed.documents import Path
from testbed.resources.migration.draft import Draft, elements, rename, sequence

ROOT_NAMESPACE = "istio-system"


def policy(draft: Draft) -> None:
    """Rewrite the document in place; further documents are added behind it."""
    mesh_wide = draft.kind[1] == "MeshPolicy"
    old = draft.spec
    if mesh_wide:
        draft.node.setdefault("metadata", CommentedMap())["namespace"] = ROOT_NAMESPACE
        message = f"for the whole mesh: it lives in the root namespace ({ROOT_NAMESPACE}) now"
        draft.changed(("metadata", "namespace"), message)
    mode = _mode(draft, old)
    jwts = [(at, origin["jwt"]) for at, origin in elements(old, "origins", ("spec",)) if origin.get("jwt")]
    selectors = _selectors(draft, old)
    made: list[CommentedMap] = []
    for i, (selector, ports) in enumerate(selectors):
        name = draft.name if i == 0 else f"{draft.name}-{i + 1}"
        if mode:
            made.append(_peer(name, mode, selector, ports))
        if jwts:
            made += _request(draft, name, jwts, selector, bool(old.get("originIsOptional")))
    if not made:
        draft.warn(("spec",), "neither peers nor origins: nothing to write")
        return
    kinds = ", ".join(dict.fromkeys(str(m["kind"]) for m in made))
    draft.changed(("kind",), f"{draft.kind[1]} of authentication.istio.io is {kinds} now")
    first, *rest = made
    draft.node["apiVersion"], draft.node["kind"] = first["apiVersion"], first["kind"]
    draft.node["spec"] = first["spec"]
    for other in rest:
        other["metadata"]["namespace"] = draft.namespace
        draft.added.append(other)


def _mode(draft: Draft, old: CommentedMap) -> str:
    modes = [
        "PERMISSIVE" if (peer.get("mtls") or {}).get("mode") == "PERMISSIVE" else "STRICT"
        for _, peer in elements(old, "peers", ("spec",))
        if "mtls" in peer
    ]
    if modes and old.get("peerIsOptional"):
        draft.changed(("spec", "peerIsOptional"), "is mode PERMISSIVE now")
        return "PERMISSIVE"
    if modes:
        return modes[0]
    if old.get("origins"):
        message = "without peers this policy turned mutual TLS off for its targets; that is not carried over"
        draft.warn(("spec",), message, "write a PeerAuthentication with mode DISABLE if you need that")
        return ""
    draft.warn(("spec",), "a policy without peers turned mutual TLS off: mode DISABLE", "write STRICT if you can")
    return "DISABLE"


def _selectors(draft: Draft, old: CommentedMap) -> list[tuple[CommentedMap | None, list[int]]]:
    found: list[tuple[CommentedMap | None, list[int]]] = []
    for at, target in elements(old, "targets", ("spec",)):
        labels = CommentedMap(target.get("labels") or {"app": target.get("name")})
        if "labels" not in target:
            message = f"a target named a service; the label app: {target.get('name')} stands for its workloads now"
            draft.warn((*at, "name"), message, "write the labels that its workloads carry")
        ports = [port["number"] for _, port in elements(target, "ports", at) if "number" in port]
        for where, port in elements(target, "ports", at):
            if "number" not in port:
                draft.warn((*where, "name"), "a port by name can't be said", "write its number below portLevelMtls")
        found.append((CommentedMap(matchLabels=labels), ports))
    return found or [(None, [])]


def _peer(name: str, mode: str, selector: CommentedMap | None, ports: list[int]) -> CommentedMap:
    spec = CommentedMap()
    if selector is not None:
        spec["selector"] = selector
    if ports:
        spec["portLevelMtls"] = CommentedMap({port: CommentedMap(mode=mode) for port in ports})
    else:
        spec["mtls"] = CommentedMap(mode=mode)
    return _manifest("PeerAuthentication", name, spec)


def _request(
    draft: Draft, name: str, jwts: list[tuple[Path, Any]], selector: CommentedMap | None, optional: bool
) -> list[CommentedMap]:
    rules = []
    for at, jwt in jwts:
        rule = CommentedMap(jwt)
        if "jwtHeaders" in rule:
            rename(rule, "jwtHeaders", "fromHeaders", sequence([CommentedMap(name=h) for h in rule["jwtHeaders"]]))
        if "jwtParams" in rule:
            rename(rule, "jwtParams", "fromParams")
        if rule.pop("triggerRules", None) is not None:
            message = "triggerRules can't be said: a token is checked on every path that it is sent to"
            draft.warn((*at, "jwt", "triggerRules"), message, "list the paths in the AuthorizationPolicy")
        rules.append(rule)
    spec = CommentedMap()
    if selector is not None:
        spec["selector"] = selector
    spec["jwtRules"] = sequence(rules)
    made = [_manifest("RequestAuthentication", name, spec)]
    if not optional:
        deny = CommentedMap()
        if selector is not None:
            deny["selector"] = CommentedMap(matchLabels=CommentedMap(selector["matchLabels"]))
        deny["action"] = "DENY"
        source = CommentedMap(notRequestPrincipals=sequence(["*"], flow=True))
        deny["rules"] = sequence([CommentedMap({"from": sequence([CommentedMap(source=source)])})])
        made.append(_manifest("AuthorizationPolicy", f"{name}-token", deny))
        message = "a RequestAuthentication lets requests without a token pass; the AuthorizationPolicy"
        draft.changed(("spec", "origins"), f"{message} {name}-token, which denies them, is new")
    return made


def _manifest(kind: str, name: str, spec: CommentedMap) -> CommentedMap:
    return CommentedMap(apiVersion="security.istio.io/v1", kind=kind, metadata=CommentedMap(name=name), spec=spec)
