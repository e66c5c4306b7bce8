"""Scenarios in a lab in ambient mode: what is asked of pods without Envoys, and what is said of the rest."""

import pytest

from testbed.backends.istio.ambient_backend import AmbientBackend
from testbed.backends.istio.backend import IstioBackend
from testbed.backends.standalone import StandaloneBackend
from testbed.documents import parse
from testbed.faults.breaking import Breaker
from testbed.host.directories import testbed_home as home
from testbed.lab.lab import Lab
from testbed.model.expectation import Expectation
from testbed.model.reading import read_inventory
from testbed.model.scenario import Step, Traffic
from testbed.model.verdict import Outcome
from testbed.resources import ResourceSet, load
from testbed.scenarios import find
from testbed.scenarios.ambient import why_not
from testbed.scenarios.building import build
from testbed.scenarios.judge import Terms
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.naming import check_names
from testbed.scenarios.running import why_not_applicable

[MTLS] = find(["ambient-mtls"])
HTTP = "networking.istio.io/v1"


def under_test(name="k3s-ambient", backend=AmbientBackend):
    file = f"{name}.yaml"
    there = Lab(read_inventory((home() / "inventories" / file).read_text(), file), file)
    nobody = {"__init__": lambda self: None, "topology": there.topology}
    return LabUnderTest(type("Nobody", (backend,), nobody)(), breaker=Breaker(there))


def resources(*manifests):
    return load(parse("---\n".join(manifests), "mesh.yaml"))


def route(hosts="[echo]", gateways=""):
    spec = f"spec: {{hosts: {hosts}, {gateways} http: [{{route: [{{destination: {{host: echo}}}}]}}]}}\n"
    return f"apiVersion: {HTTP}\nkind: VirtualService\nmetadata: {{name: echo}}\n{spec}"


def rule(policy=""):
    return f"apiVersion: {HTTP}\nkind: DestinationRule\nmetadata: {{name: echo}}\nspec: {{host: echo{policy}}}\n"


def step(expect=None, **when):
    traffic = {"from": "client-v2", "service": "echo", **when}
    return Step(when=Traffic.model_validate(traffic), expect=Expectation.model_validate(expect or {"status": 200}))


def test_the_shipped_one_applies_to_its_lab_and_names_what_is_there():
    lab = under_test()
    assert why_not_applicable(MTLS.scenario, lab) == ""
    check_names(MTLS, topology=lab.topology)
    for each in MTLS.scenario.each_step():
        assert why_not(each, ResourceSet(), lab) == "", each.name


@pytest.mark.parametrize(
    ("name", "backend", "why"),
    [
        ("k3s-small", IstioBackend, "pods have sidecars: mesh.mode is not ambient"),
        ("two-nodes", StandaloneBackend, "every workload has a sidecar: ambient mode is Istio's"),
    ],
)
def test_elsewhere_it_says_why_it_does_not_apply(name, backend, why):
    assert why_not_applicable(MTLS.scenario, under_test(name, backend)) == why


@pytest.mark.parametrize("name", ["echo-mtls", "mtls"])
def test_a_scenario_that_turns_tls_off_by_the_callers_rule_does_not_apply(name):
    [file] = find([name])
    scenario = file.scenario.model_copy(update={"needs": []})
    assert "callers tunnel to pods" in why_not_applicable(scenario, under_test())
    assert why_not_applicable(scenario, under_test("k3s-small", IstioBackend)) == ""


@pytest.mark.parametrize(
    ("given", "ignored"),
    [
        (resources(route()), "VirtualService default/echo"),
        (resources(route("[echo]", "gateways: [mesh, g],")), "VirtualService default/echo"),
        (resources(rule(", trafficPolicy: {loadBalancer: {simple: RANDOM}}")), "DestinationRule default/echo"),
        (resources(route('["*"]', "gateways: [g],")), ""),
        (resources(route("[ratings]")), ""),
        (resources(rule(", subsets: [{name: v1, labels: {version: v1}}]")), ""),
    ],
    ids=["route", "of mesh and gateway", "policy", "of a gateway", "of another", "subsets"],
)
def test_what_a_pod_sends_goes_by_no_routes_and_it_is_said_which(given, ignored):
    assert (f"without a waypoint {ignored} does not count" in why_not(step(), given, under_test())) is bool(ignored)
    for sender in ("client-v1", "gateway"):
        assert why_not(step(**{"from": sender}), given, under_test()) == "", "an Envoy sends it"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (step(mesh=False), "all that leaves its pod is captured"),
        (step({"identity": {"service": "echo-v2"}}), "no Envoy of its own tells whom it met"),
        (step({"denied": {"by": "rbac"}}, **{"from": "client-v1"}), "its ztunnel refuses connections"),
        (step({"any": [{"denied": {"by": "jwt"}}, {"status": 200}]}), "its ztunnel refuses connections"),
        (step({"denied": {"by": "tls"}}, **{"from": "client-v1"}), ""),
        (step({"denied": {"by": "rbac"}}, **{"from": "client-v1", "service": "client"}), "client-v2 is in ambient"),
    ],
    ids=["stranger", "identity", "rbac", "jwt", "tls", "of another service"],
)
def test_what_needs_an_envoy_of_a_pod_is_not_asked(asked, why):
    said = why_not(asked, ResourceSet(), under_test())
    assert why in said
    assert bool(said) is bool(why)


@pytest.mark.parametrize(
    "expected",
    [
        {"identity": {"service": "echo"}},
        {"telemetry": {"at": "echo", "fields": {"method": "GET"}}},
        {"config": {"workload": "echo-v1", "clusters": ["x"]}},
        {"denied": {"by": "tls", "at": "echo-v1"}},
    ],
    ids=lambda value: next(iter(value)),
)
def test_what_is_read_from_envoys_is_not_judged_of_a_pod_and_the_rest_of_the_step_is(expected):
    lab = under_test()
    terms = Terms(step().when)
    judge = build(Expectation.model_validate({"all": [expected, {"status": 200}]}), terms, lab.topology)
    [first, other] = judge.parts
    verdict = first.conclude(None)
    assert (verdict.outcome, first.name) == (Outcome.NOT_APPLICABLE, next(iter(expected)))
    assert "echo-v1 is in ambient mode" in verdict.reason
    assert other.name == "status"


def test_a_machines_workload_and_a_gateway_are_read_as_anywhere():
    lab = under_test()
    for name in ("echo-v2", "ingressgateway"):
        expected = Expectation.model_validate({"config": {"workload": name, "clusters": ["x"]}})
        assert type(build(expected, Terms(step().when), lab.topology)).__name__ == "ConfigJudge"
