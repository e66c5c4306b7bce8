"""Negative controls on a mesh that is played (see ``fake_lab``): what counts as noticed, and what as no control."""

from pathlib import Path

import pytest
from fake_lab import weights

from testbed.documents import parse
from testbed.errors import LabError, MeshError, bad_input
from testbed.model.scenario import read_scenario
from testbed.model.verdict import Outcome
from testbed.resources import load
from testbed.scenarios import ScenarioFile
from testbed.scenarios.mutants import mutants_of, run_mutants

WHEN = "when: {from: client, service: reviews, concurrency: 2, requests: 400}\n"
HALVES = "expect: {split: {service: reviews, weights: {v1: 50, v2: 50}, tolerance: 15}}\n"
HEAD = "name: half\ndescription: d\npromise: half and half\n"


def scenario(text: str) -> ScenarioFile:
    return ScenarioFile(Path("half.yaml"), read_scenario(HEAD + text, "half.yaml"))


def test_a_split_notices_shifted_weights_after_it_has_passed_unbroken(mesh):
    seen = []
    score = run_mutants(scenario(WHEN + HALVES), mesh.lab(), each=seen.append)
    assert score.baseline is not None and score.baseline.outcome is Outcome.PASS
    assert [r.name for r in score.results if r.killed] == ["VirtualService reviews: http[0]: weights shifted by 30"]
    assert (score.killed, score.counted, score.percent) == (1, 1, 100.0)
    assert [s.results for s in seen] == [score.results]
    assert score.exit_code == 0


def test_a_scenario_that_always_fails_has_no_score(mesh):
    """It would notice every mutant, and everything else."""
    score = run_mutants(scenario(WHEN + HALVES.replace("50", "80", 1).replace("50", "20")), mesh.lab())
    assert score.percent is None
    assert score.results == ()
    assert score.unsound.startswith("FAIL with nothing broken: ")
    assert score.exit_code == 1


def test_a_scenario_that_is_inconclusive_unbroken_has_no_score(mesh):
    mesh.forget = 0.05
    score = run_mutants(scenario(WHEN + HALVES), mesh.lab())
    assert score.percent is None
    assert score.unsound.startswith("INCONCLUSIVE with nothing broken: ")
    assert score.exit_code == 3


@pytest.mark.parametrize("error", [MeshError("client-v1", "take it up", "no such cluster"), None])
def test_a_mutant_that_the_mesh_refuses_was_noticed_by_no_traffic_and_counts_as_neither(mesh, monkeypatch, error):
    whole, apply = weights(50, 50), mesh.apply

    def refusing(wanted, **options):
        if wanted != whole:
            raise error or bad_input("x.yaml", "two of them contradict each other")
        return apply(wanted, **options)

    monkeypatch.setattr(mesh, "apply", refusing)
    score = run_mutants(scenario(WHEN + HALVES), mesh.lab())
    (result,) = score.results
    assert not result.killed
    assert result.refused
    assert (score.killed, score.counted, score.percent) == (0, 0, None)
    assert score.exit_code == 3  # nothing was shown


def test_a_mutant_that_is_inconclusive_has_survived(mesh, monkeypatch):
    apply = mesh.apply

    def breaking(wanted, **options):
        mesh.dead_nodes = {"three"} if wanted != weights(50, 50) else set()
        return apply(wanted, **options)

    monkeypatch.setattr(mesh, "apply", breaking)
    score = run_mutants(scenario(WHEN + HALVES), mesh.lab())
    assert (score.killed, score.counted, score.percent) == (0, 1, 0.0)
    assert score.exit_code == 1


def test_a_lab_that_cannot_be_put_back_says_so(mesh, monkeypatch):
    apply, whole = mesh.apply, weights(50, 50)
    mesh.calls = 0

    def once(wanted, **options):
        mesh.calls += wanted == whole
        if mesh.calls > 1 and wanted == whole:
            raise LabError("one", "push", "gone")
        return apply(wanted, **options)

    monkeypatch.setattr(mesh, "apply", once)
    score = run_mutants(scenario(WHEN + HALVES), mesh.lab())
    assert score.left_behind
    assert score.percent is None
    assert score.exit_code == 3


def test_a_scenario_that_is_not_applicable_has_none(mesh):
    score = run_mutants(scenario(WHEN + HALVES + "needs: [ratings]\n"), mesh.lab())
    assert (score.results, score.percent, score.exit_code) == ((), None, 0)
    assert "the lab has no ratings" in score.unsound


def manifests(*texts):
    return load([d for t in texts for d in parse(t, "lab.yaml")])


POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  selector: {matchLabels: {app: reviews}}
  action: ALLOW
  rules: [{from: [{source: {principals: [a/b]}}]}]
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews}}], timeout: 1s, retries: {attempts: 2, perTryTimeout: 5s}}]
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    tls: {mode: ISTIO_MUTUAL}
    connectionPool: {http: {http1MaxPendingRequests: 1}}
    outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 8s}
"""
JWT = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: reviews}
spec:
  selector: {matchLabels: {app: reviews}}
  jwtRules: [{issuer: me, jwks: '{"keys": []}'}]
"""
SIDECAR = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
"""


@pytest.mark.parametrize(
    ("expect", "broken"),
    [
        ("denied: {by: rbac, at: reviews}", {"AuthorizationPolicy readers: dropped"}),
        ("timeout: {after: 1s, reached: reviews}", {"VirtualService reviews: http[0]: timeout 1s doubled"}),
        ("attempts: {service: reviews, each: 3}", {"VirtualService reviews: http[0]: retries 2 -> 3"}),
        ("balance: {policy: ROUND_ROBIN, service: reviews}", {"DestinationRule reviews: ROUND_ROBIN -> RANDOM"}),
        ("overflow: {most: 1, refused: 9}", {"DestinationRule reviews: connectionPool dropped"}),
        ("ejected: {workload: reviews-v1, after: 3}", {"DestinationRule reviews: outlierDetection dropped"}),
        ("identity: {service: reviews}", {"DestinationRule reviews: tls disabled"}),
        ("denied: {by: jwt, at: reviews}", {"RequestAuthentication reviews: dropped"}),
        ("denied: {by: egress}", {"Sidecar default: dropped"}),
    ],
    ids=lambda v: v.partition(":")[0] if isinstance(v, str) else "",
)
def test_what_a_claim_rests_on_is_broken_though_it_is_the_labs_own(expect, broken):
    base = manifests(POLICY, ROUTE, RULE, JWT, SIDECAR)
    file = scenario(f"when: {{from: client, service: reviews}}\nexpect: {{{expect}}}\n")
    names = {m.name for m in mutants_of(file, base)}
    assert broken <= names
    # what the claim doesn't rest on stays
    assert "DestinationRule reviews: ROUND_ROBIN -> RANDOM" not in names or "balance" in expect
    assert "VirtualService reviews: http[0]: timeout 1s doubled" not in names or "timeout" in expect


def test_a_policy_for_others_is_left_alone():
    base = manifests(POLICY.replace("app: reviews", "app: ratings"), RULE.replace("host: reviews", "host: ratings"))
    file = scenario(
        WHEN + "expect: {all: [{denied: {at: reviews}}, {balance: {policy: RANDOM, service: reviews}}]}\n"
    )
    assert list(mutants_of(file, base)) == []
