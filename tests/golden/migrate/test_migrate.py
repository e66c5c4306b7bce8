"""Outdated manifests, what becomes of them, and what is said.

Each case is a file of this folder (or of ``playbooks/resources/article/outdated``): ``NAME.yaml`` becomes
``NAME.out``, and ``NAME.said`` lists changes and warnings.  With TESTBED_WRITE=1 the two are written.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from testbed.documents import parse
from testbed.errors import BadInput
from testbed.resources.loading import load
from testbed.resources.migration import Migration, migrate

HERE = Path(__file__).parent
ARTICLE = HERE.parents[2] / "playbooks/resources/article/outdated"
CASES = sorted((*HERE.glob("*.yaml"), *ARTICLE.glob("*.yaml")))


def said(migration: Migration) -> str:
    lines = [f"changed {p}" for p in migration.changes]
    lines += [f"warning {p}" + (f"\n        {p.next_step}" if p.next_step else "") for p in migration.warnings]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_a_manifest_becomes_what_it_is_today(path):
    migration = migrate(path.read_text(), path.name)
    expected, words = HERE / f"{path.stem}.out", HERE / f"{path.stem}.said"
    if os.environ.get("TESTBED_WRITE"):
        expected.write_text(migration.text)
        words.write_text(said(migration))
    assert migration.text == expected.read_text()
    assert said(migration) == words.read_text()


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_what_is_written_loads(path):
    load(parse(migrate(path.read_text(), path.name).text, path.name))


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_a_second_migration_changes_nothing(path):
    once = migrate(path.read_text(), path.name).text
    again = migrate(once, path.name)
    assert again.text == once
    assert again.changes == ()


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_comments_are_kept(path):
    before = [line.partition("#")[2].strip() for line in path.read_text().splitlines() if "#" in line]
    after = migrate(path.read_text(), path.name).text
    assert [comment for comment in before if comment not in after] == []


def test_a_document_without_outdated_forms_stays_byte_for_byte():
    text = (HERE / "todays.yaml").read_text()
    assert migrate(text, "todays.yaml") == Migration(text)


def test_only_the_outdated_document_of_a_file_is_written_anew():
    today = (HERE / "todays.yaml").read_text()
    old = "apiVersion: networking.istio.io/v1alpha3\nkind: Gateway\nmetadata: {name: x}\n"
    assert today in migrate(f"{today}---\n{old}", "both.yaml").text


def test_text_that_is_no_yaml_is_refused_with_its_place():
    with pytest.raises(BadInput, match=r"broken\.yaml:2"):
        migrate("a: [1\nb: 2\n", "broken.yaml")


def test_two_allow_rules_for_two_callers_are_said_to_shut_out_all_others():
    text = (ARTICLE / "security.yaml").read_text()
    warning = next(w for w in migrate(text, "security.yaml").warnings if "denied" in w.message)
    assert "all workloads of the namespace default" in warning.message
    assert "sa/productpage" in warning.message
    assert "sa/reviews" in warning.message


def test_a_pools_retries_go_to_the_route_and_what_is_left_is_said():
    migration = migrate((ARTICLE / "resilience.yaml").read_text(), "resilience.yaml")
    rule, service = yaml.safe_load_all(migration.text)
    assert rule["spec"]["trafficPolicy"]["connectionPool"] == {
        "http": {"maxRequestsPerConnection": 1},
        "tcp": {"connectTimeout": "1s"},
    }
    assert service["spec"]["http"][0]["retries"] == {"attempts": 3, "backoff": "1s"}
    assert "retries" not in service["spec"]["http"][1]
    unsaid = {w.location.field.rpartition(".")[2] for w in migration.warnings if "can't be said" in w.message}
    assert unsaid == {"backoffFactor", "maxIntervalSeconds"}
