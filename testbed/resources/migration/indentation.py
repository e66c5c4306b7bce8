"""Fields that stand at the column of a list's dashes: no YAML, but common in pasted manifests.

::

    http:
     - route: …
     timeout: 1s      # belongs to the route above, or to the mapping around the list?

The field's owner is the message that has it; where both have, the one around the list.
"""

from __future__ import annotations

import re

from testbed.documents import Path, parse
from testbed.errors import BadInput, Location, Problem
from testbed.resources.kinds import KINDS
from testbed.resources.loading import owner_of
from testbed.resources.outdated import outdated_field
from testbed.resources.values import Message

_KEY = re.compile(r"^(\s*)((?:- +)*)([A-Za-z][\w-]*):(\s|$)")
_KIND = re.compile(r"^kind:\s*(\w+)\s*$")
_MOST = 100  # fields mended in one file
_LARGEST = 1024 * 1024  # characters: each field mended means reading the text again


def mend(text: str, file: str) -> tuple[str, list[Problem], list[Problem]]:
    """The text with such fields moved to their owners; what was done, and what should be looked at."""
    changes: list[Problem] = []
    warnings: list[Problem] = []
    for _ in range(_MOST if len(text) <= _LARGEST else 0):
        line = _broken_line(text, file)
        moved = _move(text.split("\n"), line - 1) if line else None
        if moved is None:
            break
        text, field, owner, both = moved
        where = Location(file, line, 0, field)
        changes.append(Problem(where, f"stood at the column of the list's dashes, which is no YAML; now {owner}"))
        if both:
            warnings.append(
                Problem(where, "the list's last element could have it too", "move it if that was meant")
            )
    return text, changes, warnings


def _broken_line(text: str, file: str) -> int:
    try:
        parse(text, file)
    except BadInput as e:
        return e.problems[0].location.line if "not valid YAML" in str(e) else 0
    return 0


def _move(lines: list[str], index: int) -> tuple[str, str, str, bool] | None:
    match = _KEY.match(lines[index]) if index < len(lines) else None
    if match is None or match[2]:
        return None
    column, key = len(match[1]), match[3]
    path, parent_column = _path_to(lines, index, column)
    kind = next((m[1] for line in reversed(lines[:index]) if (m := _KIND.match(line))), "")
    spec = next((k.spec for k in KINDS if k.name == kind), None)
    if spec is None or not path or path[0] != "spec":
        return None
    around, element = owner_of(spec, path[1:-1]), owner_of(spec, (*path[1:], 0))
    in_around, in_element = _has(around, key), _has(element, key)
    if not (in_around or in_element):
        return None
    shift = parent_column - column if in_around else 2
    end = index + 1
    while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > column):
        end += 1
    for i in range(index, end):
        if lines[i].strip():
            lines[i] = " " * shift + lines[i] if shift > 0 else lines[i][-shift:]
    names = ".".join(str(p) for p in path)
    parent = names.rpartition(".")[0]
    if in_around:
        return "\n".join(lines), f"{parent}.{key}", f"a field of {parent}", in_element
    return "\n".join(lines), f"{names}[].{key}", f"a field of the last element of {names}", False


def _has(owner: type[Message] | None, key: str) -> bool:
    if owner is None:
        return False
    return key in {f.alias or n for n, f in owner.model_fields.items()} or bool(outdated_field(owner, key))


def _path_to(lines: list[str], index: int, column: int) -> tuple[Path, int]:
    """The names around a line, from the document's root, and the column of the nearest."""
    path: list[str | int] = []
    nearest = -1
    for line in reversed(lines[:index]):
        if line.startswith("---"):
            break
        match = _KEY.match(line)
        if match is None:
            continue
        at = len(match[1])
        if at >= column and not (match[2] and at < column):
            continue
        if match[2]:  # an element's first field: the list it is in comes next
            inner = at + len(match[2])
            if inner < column:
                path[:0] = [0, match[3]]
            else:
                path[:0] = [0]
            column = at
        else:
            path.insert(0, match[3])
            column = at
        if nearest < 0:
            nearest = column
        if at == 0:
            break
    return tuple(path), nearest
