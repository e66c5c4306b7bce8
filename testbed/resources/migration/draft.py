"""A document while it is rewritten: its nodes keep their comments, its findings their places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.tokens import CommentToken

from testbed.documents import Document, Path
from testbed.errors import Problem


@dataclass
class Draft:
    """One document: ``node`` is rewritten in place; ``added`` are documents that come after it."""

    document: Document
    node: CommentedMap
    changes: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    added: list[Any] = field(default_factory=list)
    removed: bool = False

    @property
    def kind(self) -> tuple[str, str]:
        """Group and kind."""
        return str(self.node.get("apiVersion", "")).rpartition("/")[0], str(self.node.get("kind", ""))

    @property
    def name(self) -> str:
        """The name in its metadata."""
        return str((self.node.get("metadata") or {}).get("name", ""))

    @property
    def namespace(self) -> str:
        """The namespace in its metadata, or ``default``."""
        return str((self.node.get("metadata") or {}).get("namespace") or "default")

    @property
    def spec(self) -> CommentedMap:
        """Its spec; an empty one is made when it has none."""
        return below(self.node, "spec")

    def changed(self, path: Path, message: str) -> None:
        """Note a change; ``path`` is that of the original text."""
        self.changes.append(Problem(self.document.locate(path), message))

    def warn(self, path: Path, message: str, next_step: str = "") -> None:
        """Note what the text can't say, or what now means something else."""
        self.warnings.append(Problem(self.document.locate(path), message, next_step))


def mappings(value: Any, at: Path = ()) -> Iterator[tuple[Path, CommentedMap]]:
    """Every mapping in a value with its path, outer ones first."""
    if isinstance(value, CommentedMap):
        yield at, value
        for key in list(value):
            if key in value:
                yield from mappings(value[key], (*at, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from mappings(item, (*at, i))


def elements(value: Any, name: str, at: Path) -> Iterator[tuple[Path, CommentedMap]]:
    """The mappings in the list ``value[name]``."""
    items = value.get(name) if isinstance(value, CommentedMap) else None
    for i, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, CommentedMap):
            yield (*at, name, i), item


def rename(node: CommentedMap, old: str, new: str, value: Any = None) -> None:
    """Give a key another name (and value), at its place and with its comments."""
    position = list(node).index(old)
    kept = node[old] if value is None else value
    comment = node.ca.items.pop(old, None)
    del node[old]
    node.insert(position, new, kept)
    if comment is not None:
        node.ca.items[new] = comment


def take(node: CommentedMap, key: str) -> Any:
    """Remove a key and give its value; None when it is absent.  Comments on lines of their own stay behind."""
    if key not in node:
        return None
    position = list(node).index(key)
    owner, last = _last(node, key)
    comments = owner.ca.items.get(last)
    token = comments[_slot(owner)] if comments else None
    node.ca.items.pop(key, None)
    value = node.pop(key)
    if token is not None and position:
        beside, newline, after = token.value.partition("\n")
        if owner is not node:  # what stands beside the value goes with it
            token.value, after = beside + newline, newline + after
        else:
            after = token.value
        if after.strip():
            _append(node, list(node)[position - 1], CommentToken(after, token.start_mark, None))
    return value


def _last(node: Any, key: Any) -> tuple[Any, Any]:
    """Where ruamel.yaml keeps the comment behind ``node[key]``: at its last scalar."""
    value = node[key]
    if not isinstance(value, CommentedMap | CommentedSeq) or value.fa.flow_style():
        return node, key
    if isinstance(value, CommentedMap) and value:
        return _last(value, list(value)[-1])
    if isinstance(value, CommentedSeq) and value:
        return _last(value, len(value) - 1)
    return node, key


def _slot(node: Any) -> int:
    return 2 if isinstance(node, CommentedMap) else 0


def _append(node: Any, key: Any, token: Any) -> None:
    owner, last = _last(node, key)
    slot = _slot(owner)
    comments = owner.ca.items.setdefault(last, [None] * 4 if slot else [None] * 2)
    if comments[slot] is None:
        comments[slot] = token
    else:
        comments[slot].value = comments[slot].value.rstrip("\n") + "\n" + token.value.lstrip("\n")


def below(node: CommentedMap, *names: str) -> CommentedMap:
    """The mapping at ``names``, made where it is missing."""
    for name in names:
        if not isinstance(node.get(name), CommentedMap):
            node[name] = CommentedMap()
        node = node[name]
    return node


def sequence(values: Any, flow: bool = False) -> CommentedSeq:
    """A list to be written; ``flow``: on one line."""
    out = CommentedSeq(values)
    if flow:
        out.fa.set_flow_style()
    return out
