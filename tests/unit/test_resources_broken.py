"""Broken manifests: each gives an error with its place and what to write, in bounded time and memory."""

from __future__ import annotations

import resource as usage
import time
import tracemalloc
from pathlib import Path

import pytest

from testbed.documents import MAX_BYTES, parse
from testbed.errors import BadInput
from testbed.resources.loading import load

BROKEN = sorted((Path(__file__).parent / "resources_broken").glob("*.yaml"))


def refuse(text: str, file: str) -> BadInput:
    with pytest.raises(BadInput) as caught:
        load(parse(text, file))
    return caught.value


@pytest.mark.parametrize("path", BROKEN, ids=lambda p: p.stem)
def test_a_broken_manifest_gives_a_located_error(path):
    """The file's first line says what is expected: ``# expect: LINE: TEXT`` or ``# expect: TEXT``."""
    text = path.read_text()
    line, _, wanted = text.splitlines()[0].removeprefix("# expect: ").rpartition(": ")
    started = time.process_time()
    error = refuse(text, path.name)
    assert time.process_time() - started < 2
    said = [f"{p.message} {p.next_step}" for p in error.problems]
    assert any(wanted in each for each in said), said
    found = [p for p, each in zip(error.problems, said, strict=True) if wanted in each]
    assert found[0].location.file == path.name
    assert found[0].location.line > 0
    assert not line or found[0].location.line == int(line)
    assert found[0].next_step
    assert error.exit_code == 2


def test_there_are_thirty_of_them():
    assert len(BROKEN) >= 30


def test_a_file_of_50_mb_is_refused_before_it_is_read():
    text = "a: " + "x" * 50_000_000
    assert len(text) > MAX_BYTES
    started = time.process_time()
    assert "50 MB" in str(refuse(text, "huge.yaml"))
    assert time.process_time() - started < 0.5


def test_a_regular_expression_of_a_megabyte_is_refused_by_its_length():
    text = _route_with(f"match: [{{uri: {{regex: '{'(a|b)*' * 150_000}'}}}}]")
    started = time.process_time()
    assert "1024" in str(refuse(text, "regex.yaml"))
    assert time.process_time() - started < 5


def test_a_deeply_nested_document_is_refused():
    assert "deep" in str(refuse("a: " + "[" * 200 + "]" * 200, "deep.yaml"))


def test_an_anchor_bomb_stays_small():
    text = (Path(__file__).parent / "resources_broken/anchor-bomb.yaml").read_text()
    tracemalloc.start()
    try:
        refuse(text, "bomb.yaml")
        assert tracemalloc.get_traced_memory()[1] < 500e6
    finally:
        tracemalloc.stop()


def test_all_problems_of_all_files_are_told_at_once():
    one = _route_with("timeout: x\n      tmeout: 1s")
    two = _route_with("retries: {attempts: -1}")
    with pytest.raises(BadInput) as caught:
        load([*parse(one, "one.yaml"), *parse(two, "two.yaml")])
    places = [(p.location.file, p.location.field) for p in caught.value.problems]
    assert ("one.yaml", "spec.http[0].timeout") in places
    assert ("one.yaml", "spec.http[0].tmeout") in places
    assert ("two.yaml", "spec.http[0].retries.attempts") in places


def test_three_thousand_virtual_services_load_in_seconds():
    text = "---\n".join(_route_with("timeout: 1s", f"v{i}") for i in range(3000))
    before = usage.getrusage(usage.RUSAGE_SELF).ru_utime
    assert len(load(parse(text, "many.yaml"))) == 3000
    assert usage.getrusage(usage.RUSAGE_SELF).ru_utime - before < 10


def _route_with(more: str, name: str = "broken") -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [{name}]
  http:
    - route: [{{destination: {{host: {name}}}}}]
      {more}
"""
