"""The scenario files: what is shipped is valid, what is wrong is said with its place, mutants are generated."""

import json
from pathlib import Path

import pytest

from testbed.documents import parse
from testbed.errors import BadInput
from testbed.model.scenario import read_scenario, scenario_schema
from testbed.resources import ResourceSet, load
from testbed.scenarios import find
from testbed.scenarios.loading import SCENARIOS, given_resources
from testbed.scenarios.mutants import mutants_of

ROOT = Path(__file__).parents[3]
SHIPPED = list({f.path: f for f in (*find([]), *find(["fault"]))}.values())
HEAD = "name: x\ndescription: d\npromise: p\n"
WHEN = "when: {from: client, service: reviews}\n"
BROKEN_WHEN = WHEN.replace("}", ", rate: 1, for: 9s, faults: [{kind: reset, target: a, at: 1s}]}")


def defaults(folder: str) -> ResourceSet:
    files = sorted((ROOT / "playbooks/resources" / folder).glob("*.yaml"))
    return load([d for f in files for d in parse(f.read_text(), str(f))])


def test_the_published_schema_is_current():
    """Write it anew with: python -m testbed.model.scenario > playbooks/scenarios/schema.json"""
    assert (SCENARIOS / "schema.json").read_text() == scenario_schema()


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.scenario.name)
def test_a_shipped_scenario_is_named_as_its_file_and_its_resources_are_valid(file):
    assert file.path.stem == file.scenario.name
    schema = "schema.json" if file.path.parent == SCENARIOS else "../schema.json"
    assert file.path.read_text().startswith(f"# yaml-language-server: $schema={schema}\n")
    given_resources(file.scenario.given, file.path)
    for step in file.scenario.each_step():
        given_resources(step.given, file.path)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.scenario.name)
def test_a_shipped_scenario_has_mutants_of_what_it_promises(file):
    base = defaults("two-nodes" if "echo" in file.scenario.needs else "bookinfo")
    mutants = list(mutants_of(file, base))
    assert mutants
    assert len({m.name for m in mutants}) == len(mutants)
    given = [given_resources(g, file.path) for g in (file.scenario.given, *(s.given for s in file.scenario.steps))]
    sets = [base, *(base.merged(g) for g in given), *(base.merged(given[0]).merged(g) for g in given)]
    assert all(any(m.change(s) != s for s in sets) for m in mutants)


def test_the_articles_rules_are_asked_as_its_file_has_them():
    shipped = next(f for f in SHIPPED if f.scenario.name == "article-promises")
    given = [r for s in shipped.scenario.steps for r in given_resources(s.given, shipped.path)]
    text = (ROOT / "playbooks/resources/article/security.yaml").read_text()
    rules = next(
        r for r in load(parse(text, "security.yaml")) if (r.kind, r.name) == ("AuthorizationPolicy", "bookinfo")
    )
    assert {r.digest for r in given if r.key == rules.key} == {rules.digest}


def test_a_resource_of_several_steps_is_broken_once():
    mtls = next(f for f in SHIPPED if f.scenario.name == "mtls")
    names = [m.name for m in mutants_of(mtls, defaults("bookinfo"))]
    assert [n for n in names if "PERMISSIVE" in n] == [
        "PeerAuthentication default: PERMISSIVE for STRICT [encrypted]"
    ]


def test_excuses_name_mutants_that_there_are():
    from fnmatch import fnmatch

    for file in SHIPPED:
        base = defaults("two-nodes" if "echo" in file.scenario.needs else "bookinfo")
        names = [m.name for m in mutants_of(file, base)]
        for excuse in file.scenario.equivalent:
            assert any(fnmatch(name, excuse.mutant) for name in names), (file.scenario.name, excuse.mutant, names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "either when and expect, or steps"),
        (HEAD + WHEN, "either when and expect"),
        (HEAD + WHEN + "expect: {}\n", "nothing is expected"),
        (
            HEAD + WHEN.replace("}", ", faults: [{kind: reset, target: a}]}") + "expect: {noErrors: true}\n",
            "rate and for",
        ),
        (HEAD + WHEN + "expect: {splt: 200}\n", "x.yaml:5:10: expect.splt: unknown field 'splt'"),
        (HEAD + WHEN + "expect: {split: {weights: {v1: 0}}}\n", "add up to 0"),
        (HEAD + WHEN + "expect: {timeout: {after: 1}}\n", "a duration such as 250ms"),
        (HEAD + WHEN + "expect: {body: {matches: '('}}\n", "not a regular expression"),
        (HEAD + "when: {from: client}\nexpect: {status: 200}\n", "needs the service"),
        (HEAD + "alpha: 0.7\n" + WHEN + "expect: {status: 200}\n", "alpha"),
        (HEAD + WHEN + "expect: {attempts: {service: a}}\n", "say how often"),
        (HEAD + WHEN + "expect: {config: {workload: a}}\n", "say what to look for: clusters"),
        (HEAD + WHEN + "expect: {readmitted: {workload: a, within: 5s, notBefore: 6s}}\n", "later than within"),
        (HEAD + WHEN + "expect: {denied: {by: tls, at: a, policy: x/y}}\n", "policy goes with by: rbac"),
        (HEAD + WHEN + "expect: {denied: {policy: x/y}}\n", "and with at"),
        (HEAD + WHEN + "expect: {sticky: {gone: [a]}}\n", "gone goes with since"),
        (
            HEAD + f"steps: [{{{WHEN.strip()}, expect: {{sticky: {{since: typo}}}}}}]\n",
            "no step before '' that is called",
        ),
        (HEAD + BROKEN_WHEN + "expect: {attempts: {service: a, each: 0}}\n", "attempts can't be told under faults"),
        (
            HEAD + BROKEN_WHEN + "expect: {not: {timeout: {after: 1s, reached: a}}}\n",
            "timeout.reached can't be told",
        ),
    ],
)
def test_a_bad_scenario_is_refused_with_its_place(text, message):
    with pytest.raises(BadInput) as caught:
        read_scenario(text, "x.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("x.yaml:")


def test_scenarios_are_found_by_name_tag_file_and_folder(tmp_path):
    assert [f.scenario.name for f in find(["reviews-split"])] == ["reviews-split"]
    assert len(find(["article"])) >= 6
    (tmp_path / "mine.yaml").write_text(HEAD.replace("x", "mine") + WHEN + "expect: {status: 200}\n")
    assert find([str(tmp_path), "smoke"])[0].scenario.name == "mine"
    with pytest.raises(BadInput, match="no scenario file, name or tag"):
        find(["nothing"])
    with pytest.raises(BadInput, match="cannot be read"):
        find(["nowhere/x.yaml"])


def test_a_file_that_is_wrong_is_in_nobodys_way_but_a_tag_or_all_would_miss_it(tmp_path):
    good = HEAD.replace("x", "mine") + "tags: [quick]\n" + WHEN + "expect: {status: 200}\n"
    (tmp_path / "mine.yaml").write_text(good)
    (tmp_path / "other-file.yaml").write_text(good.replace("mine", "elsewhere"))
    (tmp_path / "broken.yaml").write_text("name: broken\n")
    assert [f.scenario.name for f in find(["mine", "elsewhere"], tmp_path)] == ["mine", "elsewhere"]
    for words in (["broken"], ["quick"], []):
        with pytest.raises(BadInput, match=r"broken\.yaml"):
            find(words, tmp_path)


def test_the_schema_is_json_and_knows_every_expectation():
    schema = json.loads(scenario_schema())
    assert {"split", "denied", "attempts", "encrypted", "not", "atLeastOnce"} <= set(
        schema["$defs"]["Expectation"]["properties"]
    )
