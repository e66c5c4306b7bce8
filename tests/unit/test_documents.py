"""YAML text becomes plain values that remember where they stood."""

import time

import pytest

from testbed.documents import dotted, parse
from testbed.errors import BadInput


def problem(text):
    with pytest.raises(BadInput) as caught:
        parse(text, "lab.yaml")
    return caught.value.problems[0]


def test_a_path_is_located_where_its_name_stands():
    [document] = parse("a:\n  b:\n    - c: 1\n", "lab.yaml")
    assert document.value == {"a": {"b": [{"c": 1}]}}
    assert str(document.locate(("a", "b", 0, "c"))) == "lab.yaml:3:7: a.b[0].c"


def test_an_absent_path_is_located_at_its_nearest_parent():
    [document] = parse("a:\n  b: 1\n", "lab.yaml")
    location = document.locate(("a", "missing", "deeper"))
    assert (location.line, location.field) == (1, "a.missing.deeper")


def test_empty_documents_are_left_out():
    assert [d.value for d in parse("---\n---\na: 1\n---\n# nothing\n", "f")] == [{"a": 1}]


def test_a_key_given_twice_is_located():
    found = problem("a: 1\nb: 2\na: 3\n")
    assert (found.location.line, "'a' is given twice" in found.message) == (3, True)


def test_a_syntax_error_is_located():
    assert problem("a: [1, 2\nb: 3\n").location.line in (2, 3)


def test_an_anchor_bomb_is_refused_quickly():
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))
    began = time.process_time()
    assert "aliases" in problem("l0: &l0 [x]\n" + levels).message
    assert time.process_time() - began < 10


def test_a_recursive_alias_is_refused():
    assert problem("a: &a [*a]\n")


def test_a_date_stays_text_as_in_json():
    assert parse("at: 2026-11-22\n", "f")[0].value == {"at": "2026-11-22"}


def test_tags_that_json_does_not_have_are_refused():
    assert "JSON" in problem("a: !!python/object:os.system x\n").message or problem("a: !!binary aGk=\n")


def test_text_that_is_too_large_is_refused_unread():
    assert "MiB" in problem("a" * (11 * 1024 * 1024)).message


def test_a_path_reads_as_people_write_it():
    assert dotted(("spec", "http", 0, "route")) == "spec.http[0].route"
