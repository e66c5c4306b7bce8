"""However a scenario is put together, it keeps to the chances of an error that it declares."""

from dataclasses import replace
from itertools import product

import pytest

from testbed.model.expectation import Expectation
from testbed.model.scenario import Traffic
from testbed.model.topology import Topology
from testbed.model.verdict import Outcome, all_of, any_of, failed, negated, passed
from testbed.scenarios import find, sharing
from testbed.scenarios.building import build
from testbed.scenarios.judge import Terms
from testbed.scenarios.shares import AtLeastOnceJudge, NeverJudge, SplitJudge
from testbed.scenarios.sharing import Errors, among_all, among_any, of_step

HALVES = {"split": {"weights": {"v1": 1, "v2": 1}}}
NEVER = {"never": {"arm": "v3"}}
ONCE = {"atLeastOnce": {"arm": "v3"}}
SHIPPED = list({f.path: f for f in (*find([]), *find(["fault"]))}.values())


def judges(expectation, alpha=0.001, beta=0.001):
    when = Traffic.model_validate({"from": "client", "service": "reviews"})
    made = build(Expectation.model_validate(expectation), Terms(when, alpha, beta), Topology((), ()))
    return made, list(leaves(made))


def leaves(judge):
    for part in getattr(judge, "parts", ()):
        yield from leaves(part)
    if isinstance(judge, SplitJudge):
        yield next(iter(judge.test.tests.values()))
    elif isinstance(judge, NeverJudge | AtLeastOnceJudge):
        yield judge.test


def test_parts_that_must_all_hold_share_alpha_and_each_has_beta():
    _, made = judges({"all": [HALVES, HALVES, NEVER, {"status": 200}]})
    assert [t.alpha for t in made[:2]] == [0.0005] * 2
    assert [t.beta for t in made] == [0.001] * 3


def test_parts_of_which_one_must_hold_share_beta_and_each_has_alpha():
    _, made = judges({"any": [HALVES, NEVER, {"status": 200}]})
    assert made[0].alpha == 0.001
    assert [t.beta for t in made] == [0.0005] * 2


def test_not_swaps_them():
    _, made = judges({"not": HALVES}, alpha=0.01, beta=0.002)
    assert (made[0].alpha, made[0].beta) == (0.002, 0.01)
    _, made = judges({"all": [{"not": NEVER}, HALVES]}, alpha=0.01, beta=0.002)
    assert made[0].beta == 0.005  # it errs where `never` passes what it should not
    assert made[1].alpha == 0.005
    _, made = judges({"not": {"any": [HALVES, HALVES]}}, alpha=0.01, beta=0.002)
    assert [(t.alpha, t.beta) for t in made] == [(0.002, 0.005)] * 2


def test_what_is_counted_takes_no_share():
    _, made = judges({"all": [HALVES, {"status": 200}, {"attempts": {"service": "reviews", "each": 1}}]})
    assert made[0].alpha == 0.001


def worst(build_verdict, chances):
    """The largest chances of a wrong FAIL and a wrong PASS, over all truths; parts err independently of each other."""
    wrong_fail = wrong_pass = 0.0
    for truth in product([True, False], repeat=len(chances)):
        holds = outcome_of(build_verdict, truth)
        wrong = 0.0
        for errs in product([False, True], repeat=len(chances)):
            weight = 1.0
            for err, true, (alpha, beta) in zip(errs, truth, chances, strict=True):
                chance = alpha if true else beta
                weight *= chance if err else 1 - chance
            said = outcome_of(build_verdict, [t != e for t, e in zip(truth, errs, strict=True)])
            wrong += weight * (said != holds)
        wrong_fail, wrong_pass = (
            (max(wrong_fail, wrong), wrong_pass) if holds else (wrong_fail, max(wrong_pass, wrong))
        )
    return wrong_fail, wrong_pass


def outcome_of(build_verdict, values):
    return build_verdict([("x", passed("held") if v else failed("broke")) for v in values]).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("compose", "among"),
    [
        (all_of, among_all),
        (any_of, among_any),
        (lambda parts: negated("all", all_of(parts)), lambda e, w: among_all(e.swapped, w)),
    ],
    ids=["all", "any", "not"],
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_composed_verdict_errs_no_more_often_than_declared(compose, among, count):
    declared = Errors(0.01, 0.03)
    parts = among(declared, [sharing.Weight(1, 1)] * count)
    wrong_fail, wrong_pass = worst(compose, [(p.alpha, p.beta) for p in parts])
    assert wrong_fail <= declared.alpha + 1e-12
    assert wrong_pass <= declared.beta + 1e-12


def test_a_composed_verdict_says_the_chances_that_it_has():
    parts = [("a", passed("held", alpha=0.01, beta=0.02)), ("b", passed("held", alpha=0.03, beta=0.05))]
    assert (all_of(parts).alpha, all_of(parts).beta) == (pytest.approx(0.04), 0.05)
    assert (any_of(parts).alpha, any_of(parts).beta) == (0.03, pytest.approx(0.07))
    swapped = negated("any", any_of(parts))
    assert (swapped.alpha, swapped.beta) == (pytest.approx(0.07), 0.03)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.scenario.name)
def test_the_steps_of_a_scenario_share_what_it_declares(file):
    scenario = file.scenario
    steps = scenario.each_step()
    shares = [of_step(step, scenario) for step in steps]
    erring = [s.alpha for s, step in zip(shares, steps, strict=True) if sharing.weight(step.expect).alpha]
    assert sum(erring) == pytest.approx(scenario.alpha if erring else 0.0)
    assert {s.beta for s in shares} == {scenario.beta}


def test_a_canarys_five_steps_err_no_more_often_than_one():
    (file,) = find(["canary"])
    reported = []
    for step in file.scenario.each_step():
        terms = Terms(step.when, *vars(of_step(step, file.scenario)).values())
        judge = build(step.expect, terms, Topology((), ()))
        assert isinstance(judge, SplitJudge)
        reported.append(passed("held", alpha=judge.alpha, beta=judge.beta))
    verdict = all_of(("step", v) for v in reported)
    assert verdict.alpha == pytest.approx(0.001)
    assert verdict.beta == 0.001
    assert replace(verdict, parts=()).outcome is Outcome.PASS
