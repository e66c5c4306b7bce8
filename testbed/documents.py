"""YAML text to plain values that remember where they stood.

Kubernetes reads YAML 1.1 through its JSON form; so does this: mappings have string keys, a key given twice
is an error, and aliases are allowed only while the expanded document stays small (an "anchor bomb" is refused
before it grows).  Nothing here opens a file: the caller hands in the text and the name to show in errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from testbed.errors import BadInput, Location, Problem, bad_input

MAX_BYTES = 10 * 1024 * 1024
MAX_VALUES = 500_000  # after aliases are expanded, per file
MAX_DEPTH = 64

Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

# JSON has no dates: Kubernetes reads them as strings
_TEXT = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp", "merge"))
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Document:
    """One YAML document: ``value`` in plain Python types, and the line and column of every path in it."""

    file: str
    value: Any
    positions: Mapping[Path, tuple[int, int]] = field(repr=False, default_factory=dict)

    def locate(self, path: Path) -> Location:
        """Where ``path`` stands; for a path that is absent, where its nearest present parent does."""
        shown = dotted(path)
        while path and path not in self.positions:
            path = path[:-1]
        line, column = self.positions.get(path, (0, 0))
        return Location(self.file, line, column, shown)


def dotted(path: Path) -> str:
    """``("spec", "http", 0, "route")`` as people write it: ``spec.http[0].route``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def parse(text: str, file: str) -> list[Document]:
    """All documents of a YAML (or JSON) text, empty ones left out.  Raises :class:`BadInput`, located."""
    if len(text) > MAX_BYTES:
        size = f"{len(text) / 1e6:.0f} MB"
        raise bad_input(file, f"the file has {size}, more than the {MAX_BYTES // 1024**2} MiB read", "split it")
    try:
        loader = _Loader(text)
    except yaml.YAMLError as e:
        raise _syntax_error(e, file) from None
    budget = [MAX_VALUES]
    documents = []
    try:
        while loader.check_node():
            positions: dict[Path, tuple[int, int]] = {}
            value = _plain(loader.get_node(), (), file, loader, positions, budget)
            if value is not None:
                documents.append(Document(file, value, positions))
    except yaml.YAMLError as e:
        raise _syntax_error(e, file) from None
    except (RecursionError, ValueError) as e:
        if isinstance(e, BadInput):
            raise
        raise bad_input(file, f"cannot be read as YAML: {type(e).__name__}: {e}", "check the file") from None
    finally:
        loader.dispose()
    return documents


def validate(model: type[Model], document: Document) -> Model:
    """The document as a pydantic model; every violation becomes a located problem."""
    try:
        return model.model_validate(document.value)
    except ValidationError as e:
        raise BadInput(list(problems_of(e, document))) from None


def problems_of(error: ValidationError, document: Document, prefix: Path = ()) -> Iterator[Problem]:
    """Pydantic's findings as located problems, in the file's order."""
    found = []
    for item in error.errors(include_url=False):
        path = prefix + tuple(p for p in item["loc"] if _is_real(p, document))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown field {path[-1]!r}"
        elif item["type"] == "missing":
            message = f"required field {path[-1]!r} is missing"
        elif item["type"] != "secret" and "input" in item and isinstance(item["input"], str | int | float | bool):
            message += f" (got {item['input']!r})"
        found.append(Problem(document.locate(path), message))
    return iter(sorted(found, key=lambda p: (p.location.line, p.location.column)))


def _is_real(part: str | int, document: Document) -> bool:
    # pydantic puts names of union members and of wrappers ("function-after[...]") into loc
    return isinstance(part, int) or not ("[" in part or "(" in part)


def _plain(
    node: yaml.Node, path: Path, file: str, loader: Any, positions: dict[Path, tuple[int, int]], budget: list[int]
) -> Any:
    budget[0] -= 1
    mark = node.start_mark
    if budget[0] < 0:
        here = _at(mark, file, path)
        raise bad_input(here, f"more than {MAX_VALUES} values after aliases are expanded", "remove the aliases")
    if len(path) > MAX_DEPTH:
        raise bad_input(_at(mark, file, path), f"nested more than {MAX_DEPTH} deep", "flatten it")
    positions[path] = (mark.line + 1, mark.column + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(n, (*path, i), file, loader, positions, budget) for i, n in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, file, loader, positions, budget)
    if node.tag in _TEXT:
        return node.value
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError:
        here = _at(mark, file, path)
        raise bad_input(here, f"a value of type {node.tag!r}, which JSON does not have", "quote it") from None


def _mapping(
    node: yaml.MappingNode,
    path: Path,
    file: str,
    loader: Any,
    positions: dict[Path, tuple[int, int]],
    budget: list[int],
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        mark = key_node.start_mark
        if not isinstance(key_node, yaml.ScalarNode):
            here = _at(mark, file, path)
            raise bad_input(here, "a mapping key that is no plain text", "write the key as a word")
        key = key_node.value
        if key_node.tag == "tag:yaml.org,2002:merge":
            here = _at(mark, file, path)
            raise bad_input(here, "a YAML merge key (<<), which Kubernetes manifests don't have", "write it out")
        if key in out:
            raise bad_input(_at(mark, file, path), f"the key {key!r} is given twice", "keep one of them")
        out[key] = _plain(value_node, (*path, key), file, loader, positions, budget)
        # a field is shown where its name stands, not where its value begins
        positions[(*path, key)] = (mark.line + 1, mark.column + 1)
    return out


def _at(mark: yaml.Mark, file: str, path: Path) -> Location:
    return Location(file, mark.line + 1, mark.column + 1, dotted(path))


def _syntax_error(error: yaml.YAMLError, file: str) -> BadInput:
    mark = getattr(error, "problem_mark", None)
    location = Location(file, mark.line + 1, mark.column + 1) if mark else Location(file)
    message = getattr(error, "problem", None) or str(error).splitlines()[0]
    advice = "mend the syntax at that place"
    if message == "did not find expected '-' indicator":  # as libyaml says it
        message = "a field at the column of the dashes of the list above it"
        advice = f"indent it with its entry, or like the list's own name; resources: testbed migrate {file} --write"
    return bad_input(location, f"not valid YAML: {message}", advice)
