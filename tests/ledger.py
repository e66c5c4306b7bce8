"""Tests say which fields of Istio's API they prove; docs/reference/coverage.md is written from that.

In Python, on the test (or on its class, or in a ``pytest.param``)::

    @pytest.mark.proves("VirtualService.spec.http[].retries.attempts", "VirtualService.spec.http[].timeout")
    def test_a_failed_request_is_tried_again(): ...

In a case file (``tests/**/*.yaml``), for tests that are driven by files, anywhere on a line of its own::

    # proves: VirtualService.spec.http[].retries.attempts

A name is one of the ledger's (``testbed/resources/api_fields.json``: kind, dot, field).  A name that ends in
``.*`` stands for all fields below it.  Marks are read from the source, so their arguments are plain strings.
A name that the ledger doesn't have fails ``tests/unit/test_resources_ledger.py``.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

TESTS = Path(__file__).parent
_COMMENT = re.compile(r"^\s*#\s*proves:\s*(.+)$", re.MULTILINE)


def proofs(names: Iterable[str], root: Path = TESTS) -> dict[str, set[str]]:
    """Ledger names, each with the tests that claim it; :class:`LookupError` for a claim that is no ledger name."""
    known = list(names)
    out: dict[str, set[str]] = defaultdict(set)
    for where, claim in claims(root):
        stem = claim.removesuffix("*")
        found = (
            [n for n in known if n.startswith(stem)] if claim.endswith(".*") else [n for n in known if n == claim]
        )
        if not found:
            raise LookupError(f"{where}: proves {claim!r}, which the ledger does not have")
        for name in found:
            out[name].add(where)
    return out


def claims(root: Path = TESTS) -> Iterator[tuple[str, str]]:
    """Every (test, claim) in the tests' sources."""
    for path in sorted(root.rglob("*.py")):
        text = path.read_text()
        if ".proves(" in text and path != Path(__file__):
            yield from _of_python(ast.parse(text), str(path.relative_to(root.parent)))
    for path in sorted((*root.rglob("*.yaml"), *root.rglob("*.yml"))):
        for match in _COMMENT.finditer(path.read_text()):
            for claim in match[1].split(","):
                yield str(path.relative_to(root.parent)), claim.strip()


def _of_python(tree: ast.Module, file: str) -> Iterator[tuple[str, str]]:
    def visit(node: ast.AST, owner: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            owner = f"{owner}::{node.name}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "proves":
            for argument in node.args:
                if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                    raise LookupError(f"{file}:{node.lineno}: proves() takes plain strings")
                yield owner, argument.value
        for child in ast.iter_child_nodes(node):
            yield from visit(child, owner)

    return visit(tree, file)
