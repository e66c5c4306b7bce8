"""The whole of a migration: text in, text out."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from testbed.documents import Path, parse
from testbed.errors import BadInput, Problem
from testbed.resources.kinds import BY_NAME, Kind
from testbed.resources.loading import owner_of
from testbed.resources.migration import authentication, authorization, indentation, traffic
from testbed.resources.migration.draft import Draft, mappings, rename
from testbed.resources.values import json_name

_MARKER = re.compile(r"^---(?=\s|$).*$", re.MULTILINE)
_DASH = re.compile(r"^( *)\S.*:\s*(?:#.*)?\n(?:\s*(?:#.*)?\n)*( *)- ", re.MULTILINE)


@dataclass(frozen=True)
class Migration:
    """``changes``: what was rewritten; ``warnings``: what today's form can't say, or what it now means."""

    text: str
    changes: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def migrate(text: str, file: str) -> Migration:
    """Outdated forms in ``text`` rewritten; documents without any stay as they are, byte for byte.

    Raises :class:`BadInput` for text that is no YAML (a field at the column of a list's dashes is mended first).
    Places in the result are those of the text as given, except that a mended line may have another column.
    """
    text, changes, warnings = indentation.mend(text, file)
    documents = iter(parse(text, file))
    chunks = _chunks(text)
    drafts: list[Draft | None] = []
    for chunk in chunks:
        node = _yaml(chunk).load(chunk)
        if node is None:
            drafts.append(None)
            continue
        document = next(documents)
        known = isinstance(node, CommentedMap) and isinstance(node.get("kind"), str)
        drafts.append(Draft(document, node) if known else None)
    live = [d for d in drafts if d is not None]
    authorization.roles(live)
    for draft in live:
        if not draft.removed:
            _rewrite(draft, live)
    out = [_written(chunk, draft) for chunk, draft in zip(chunks, drafts, strict=True)]
    for draft in live:
        changes += draft.changes
        warnings += draft.warnings
    return Migration(_joined(text, out), _sorted(changes), _sorted(warnings))


def _rewrite(draft: Draft, drafts: list[Draft]) -> None:
    match draft.kind:
        case ("authentication.istio.io", "Policy" | "MeshPolicy"):
            authentication.policy(draft)
        case ("authorization.istio.io", "Policy") | ("rbac.istio.io", "AuthorizationPolicy"):
            authorization.policy(draft)
        case ("rbac.istio.io", "ClusterRbacConfig" | "RbacConfig"):
            authorization.rbac_config(draft)
        case ("networking.istio.io", "VirtualService"):
            _spelling(draft)
            traffic.virtual_service(draft)
        case ("networking.istio.io", "DestinationRule"):
            _spelling(draft)
            traffic.destination_rule(draft, drafts)
        case ("networking.istio.io", "Gateway"):
            _spelling(draft)
            traffic.gateway(draft)
        case ("security.istio.io", "AuthorizationPolicy"):
            _spelling(draft)
            authorization.rename_outdated(draft)
        case kind if kind in BY_NAME:
            _spelling(draft)
    _version(draft)


def _version(draft: Draft) -> None:
    group, _, version = str(draft.node.get("apiVersion", "")).rpartition("/")
    kind = BY_NAME.get((group, draft.kind[1]))
    if kind is None:
        return
    if version != kind.versions[0]:
        draft.node["apiVersion"] = kind.api_version
        draft.changed(("apiVersion",), f"{version} is {kind.versions[0]} now")


def _spelling(draft: Draft) -> None:
    """Fields written as in the protobuf (``per_try_timeout``): the API server would drop them."""
    kind = BY_NAME[draft.kind]
    for at, node in list(mappings(draft.node.get("spec"))):
        owner = owner_of(kind.spec, _today(kind, at))
        names = {f.alias or n for n, f in owner.model_fields.items()} if owner else set()
        for key in [k for k in node if isinstance(k, str) and "_" in k]:
            if key not in names and (new := json_name(key)) in names and new not in node:
                rename(node, key, new)
                draft.changed(("spec", *at, key), f"is {new} now")


def _today(kind: Kind, path: Path) -> Path:
    """The path with its fields in YAML's spelling, as far as they are fields."""
    out: Path = ()
    for part in path:
        owner = owner_of(kind.spec, out)
        known = {f.alias or n for n, f in owner.model_fields.items()} if owner else set()
        out = (*out, json_name(part) if isinstance(part, str) and json_name(part) in known else part)
    return out


def _chunks(text: str) -> list[str]:
    """The text between document markers; ``---`` at a line's start can be nothing else in YAML."""
    return _MARKER.split(text)


def _yaml(text: str) -> YAML:
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.allow_duplicate_keys = False
    dash = _DASH.search(text)
    offset = len(dash[2]) - len(dash[1]) if dash and len(dash[2]) >= len(dash[1]) else 2
    yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
    return yaml


def _written(chunk: str, draft: Draft | None) -> str | None:
    """The document's text: as it was, unless something changed; None when it is gone."""
    if draft is None or not (draft.changes or draft.added):
        return chunk
    if draft.removed:
        return None
    yaml = _yaml(chunk)
    nodes = (draft.node, *draft.added)
    text = "---\n".join(_dumped(yaml, node) for node in nodes)
    if not _reads_as(text, nodes):  # a comment landed where it breaks the text: better none than a wrong one
        text = "---\n".join(_dumped(yaml, _plain(node)) for node in nodes)
        draft.warn((), "the comments of this document could not be kept", "copy them over")
    return ("\n" if chunk.startswith("\n") else "") + text


def _reads_as(text: str, nodes: tuple[Any, ...]) -> bool:
    try:
        return [d.value for d in parse(text, "")] == [_plain(node) for node in nodes]
    except BadInput:
        return False


def _plain(node: Any) -> Any:
    """The value in Python's own types, as :func:`testbed.documents.parse` gives it."""
    return parse(json.dumps(node, default=str), "")[0].value


def _dumped(yaml: YAML, node: Any) -> str:
    stream = io.StringIO()
    yaml.dump(node, stream)
    text = stream.getvalue()
    return text if text.endswith("\n") else text + "\n"


def _joined(text: str, chunks: list[str | None]) -> str:
    markers = ["", *_MARKER.findall(text)]
    kept = [(marker, chunk) for marker, chunk in zip(markers, chunks, strict=True) if chunk is not None]
    out = ""
    for marker, chunk in kept:
        if marker and out and not out.endswith("\n"):
            out += "\n"
        out += (marker if out or (marker and markers[0] == "" and chunks[0] is not None) else "") + chunk
    return out.removeprefix("\n") if out.startswith("\n") and not text.startswith("\n") else out


def _sorted(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda p: (p.location.line, p.location.column)))


__all__ = ["Migration", "migrate"]
