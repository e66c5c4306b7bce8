"""A name that the lab doesn't have is bad input, told with its place before anything is applied."""

from pathlib import Path

import pytest
from fake_lab import FakeMesh

from testbed.errors import BadInput
from testbed.model.reading import read_inventory, topology_of
from testbed.model.scenario import read_scenario
from testbed.scenarios import ScenarioFile, check, find, read_file, run_scenario
from testbed.scenarios.naming import check_names

ROOT = Path(__file__).parents[3]
INVENTORIES = sorted((ROOT / "inventories").glob("*.yaml"))
SHIPPED = list({f.path: f for f in (*find([]), *find(["fault"]))}.values())
HEAD = "name: x\ndescription: d\npromise: p\n"
WHEN = {"from": "client", "service": "reviews", "requests": 1}


@pytest.fixture(scope="module")
def mesh():
    fake = FakeMesh()
    yield fake
    fake.shutdown()
    fake.server_close()


@pytest.mark.parametrize(
    ("expect", "field", "told"),
    [
        ({"config": {"workload": "typo", "absent": ["x"]}}, "config.workload", "no workload 'typo'"),
        ({"attempts": {"service": "typo", "each": 0}}, "attempts.service", "no workload or service 'typo'"),
        ({"attempts": {"service": "reviews", "version": "v9", "each": 0}}, "attempts.version", "of reviews: 'v9'"),
        ({"encrypted": {"service": "typo"}}, "encrypted.service", "'typo'"),
        ({"identity": {"service": "reviews", "caller": "typo"}}, "identity.caller", "'typo'"),
        ({"denied": {"at": "typo"}}, "denied.at", "'typo'"),
        ({"timeout": {"after": "1s", "reached": "typo"}}, "timeout.reached", "'typo'"),
        ({"telemetry": {"at": "typo", "fields": {"x": "y"}}}, "telemetry.at", "'typo'"),
        ({"ejected": {"workload": "reviews", "after": 3}}, "ejected.workload", "no workload 'reviews'"),
        ({"readmitted": {"workload": "typo", "within": "9s"}}, "readmitted.workload", "'typo'"),
        ({"never": {"arm": "v9"}}, "never.arm", "no version 'v9'"),
        ({"never": {"arm": "typo", "by": "service"}}, "never.arm", "no service 'typo'"),
        ({"never": {"arm": "zone-z", "by": "zone"}}, "never.arm", "no zone 'zone-z'"),
        ({"atLeastOnce": {"arm": "typo", "by": "instance"}}, "atLeastOnce.arm", "no instance 'typo'"),
        ({"split": {"weights": {"v1": 1, "v9": 1}}}, "split.weights.v9", "no version 'v9'"),
        ({"split": {"weights": {"v1": 1}, "service": "typo"}}, "split.service", "'typo'"),
        ({"balance": {"policy": "LEAST_REQUEST", "avoid": "typo"}}, "balance.avoid", "'typo'"),
        ({"any": [{"status": 200}, {"not": {"never": {"arm": "v9"}}}]}, "any[1].not.never.arm", "'v9'"),
    ],
)
def test_an_expectation_names_only_what_the_lab_has(mesh, expect, field, told):
    with pytest.raises(BadInput) as caught:
        check(mesh.lab(), when=WHEN, expect=expect)
    assert told in str(caught.value)
    assert f"check: expect.{field}: " in str(caught.value)
    assert mesh.applies == 0


@pytest.mark.parametrize(
    ("when", "given", "field"),
    [
        ({"from": "typo"}, {}, "when.from"),
        ({"service": "typo"}, {}, "when.service"),
        ({}, {"settings": {"typo": {"status": 503}}}, "given.settings.typo"),
    ],
)
def test_traffic_and_settings_too(mesh, when, given, field):
    with pytest.raises(BadInput, match=rf"{field}: the lab has no"):
        check(mesh.lab(), when={**WHEN, **when}, expect={"status": 200}, given=given)


def test_a_version_that_nobody_has_may_well_be_promised_nothing(mesh):
    expect = {"split": {"weights": {"v1": 1, "v2": 1, "v9": 0}, "tolerance": 20}}
    assert check(mesh.lab(), when={**WHEN, "requests": 400}, expect=expect).verdict.passed


def test_every_problem_is_told_with_file_line_and_field(mesh, tmp_path):
    path = tmp_path / "x.yaml"
    steps = "steps:\n- when: {from: client, service: reviews}\n  expect:\n    attempts: {service: typo, each: 0}\n"
    path.write_text(f"{HEAD}{steps}    never: {{arm: v9}}\n")
    with pytest.raises(BadInput) as caught:
        run_scenario(read_file(path), mesh.lab())
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{path}:7:16: steps[0].expect.attempts.service: ")
    assert second.startswith(f"{path}:8:13: steps[0].expect.never.arm: ")
    assert "reviews" in caught.value.next_step


@pytest.mark.parametrize("inventory", INVENTORIES, ids=lambda p: p.stem)
@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.scenario.name)
def test_a_shipped_scenario_names_only_what_it_needs(file, inventory):
    """Where the lab has what it needs, it has all that it names; elsewhere it does not apply."""
    topology = topology_of(read_inventory(inventory.read_text(), str(inventory)))
    names = {w.name for w in topology.workloads} | {w.labels.get("app") for w in topology.workloads}
    if names >= set(file.scenario.needs):
        check_names(file, topology=topology)


def test_names_that_are_right_are_not_refused():
    text = HEAD + (
        "when: {from: gateway, path: /login}\n"
        "expect: {denied: {by: jwt, at: ingressgateway}, identity: {service: login, caller: 'spiffe://a/b'},"
        " never: {by: zone, arm: zone-b}}\n"
    )
    inventory = ROOT / "inventories/bookinfo.yaml"
    topology = topology_of(read_inventory(inventory.read_text(), str(inventory)))
    check_names(ScenarioFile(Path("x.yaml"), read_scenario(text, "x.yaml")), topology=topology)
