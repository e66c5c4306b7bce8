"""Judges of which instance gets what: attempts, sticky, balance."""

from __future__ import annotations

from collections import Counter

from testbed.model.expectation import Attempts, Balance, Sticky
from testbed.model.verdict import Verdict, failed, inconclusive, passed
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.judge import BROKEN, Afterwards, Terms
from testbed.statistics import binomial_cdf, binomial_sf, chi_square, chi_square_sf


class AttemptsJudge(Afterwards):
    """How often each request arrived: counted, not guessed."""

    name = "attempts"

    def __init__(self, expected: Attempts, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def conclude(self, evidence: Evidence) -> Verdict:
        """FAIL names the first request that arrived too often or too seldom."""
        if not self.samples:
            return inconclusive("no request was sent")
        want = self.expected
        least = want.each if want.each is not None else want.at_least or 0
        most = want.each if want.each is not None else want.at_most
        where = f"{want.service} {want.version}" if want.version else want.service
        counts = evidence.arrivals_at(want.service, want.version)
        seen = [counts.get(evidence.spec.request_id(s.seq), 0) for s in self.samples]
        numbers = {"requests": float(len(seen)), "arrivals": float(sum(seen)), "most": float(max(seen))}
        declared = str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"
        pairs = zip(self.samples, seen, strict=True)
        if broken := [(s, n) for s, n in pairs if n < least or (most is not None and n > most)]:
            sample, count = broken[0]
            text = f"request {sample.seq} arrived {_times(count)} at {where}; declared: {declared}"
            return failed(text, numbers | {BROKEN: float(len(broken))})
        if want.average is None:
            return passed(f"each of {len(seen)} requests arrived {declared} times at {where}", numbers)
        average = sum(seen) / len(seen)
        least_average, most_average = want.average.at_least, want.average.at_most
        text = (
            f"{len(seen)} requests arrived {average:.2f} times on average at {where}; "
            f"declared: {least_average:g} to {most_average:g}"
        )
        numbers["average"] = round(average, 3)
        if least_average <= average <= most_average:
            return passed(text, numbers)
        astray = max(average - most_average, least_average - average) * len(seen)
        return failed(text, numbers | {BROKEN: astray})


class StickyJudge(Afterwards):
    """One instance for each value."""

    name = "sticky"

    def __init__(self, expected: Sticky, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def conclude(self, evidence: Evidence) -> Verdict:
        """FAIL names the first value with two instances."""
        good, lost = self.sound()
        where: dict[str, str] = {}
        for sample in good:
            key = evidence.spec.requests[sample.variant].key
            instance = sample.headers.get("x-instance", "")
            if where.setdefault(key, instance) != instance:
                return failed(f"{key!r} reached {where[key]}, then (request {sample.seq}) {instance or 'nobody'}")
        if lost:
            return lost
        used = {i for i in where.values() if i}
        numbers = {"values": float(len(where)), "instances": float(len(used))}
        if len(used) < self.expected.instances:
            text = f"{len(where)} values use {len(used)} instances; declared: at least {self.expected.instances}"
            return failed(text, numbers)
        evidence.homes.update(where)
        text = f"each of {len(where)} values stays with one of {len(used)} instances"
        return self._moves(where, used, evidence, text, numbers) if self.expected.since else passed(text, numbers)

    def _moves(
        self, where: dict[str, str], used: set[str], evidence: Evidence, text: str, numbers: dict[str, float]
    ) -> Verdict:
        earlier = evidence.earlier_homes.get(self.expected.since or "")
        if not earlier:
            return inconclusive(f"no step {self.expected.since!r} has passed before to compare with", numbers)
        gone = set(self.expected.gone)
        if here := sorted(gone & used):
            return inconclusive(f"{here[0]} has not gone: values stay with it", numbers)
        staying = [k for k in where if k in earlier and earlier[k] not in gone]
        moved = [k for k in staying if earlier[k] != where[k]]
        share = 100 * len(moved) / max(1, len(staying))
        numbers |= {"moved percent": round(share, 1), "rehomed": float(len(where) - len(staying))}
        text += f"; {len(moved)} of {len(staying)} moved though their instance is still there"
        if share > self.expected.moves:
            return failed(f"{text}; declared: at most {self.expected.moves:g}%", numbers)
        return passed(text, numbers)


SPARED = 0.75
"""Of its even share, so much or less is what LEAST_REQUEST leaves to a slow instance."""
ENOUGH = {"ROUND_ROBIN": 60, "RANDOM": 600, "LEAST_REQUEST": 300}


class BalanceJudge(Afterwards):
    """How even the spread is: exactly, by chance, or away from the slow one."""

    name = "balance"

    def __init__(self, expected: Balance, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected
        self.cap = terms.traffic.requests or ENOUGH[expected.policy]

    def conclude(self, evidence: Evidence) -> Verdict:
        """Counts by instance."""
        good, lost = self.sound()
        if lost:
            return lost
        stray = next((s for s in good if not s.headers.get("x-instance")), None)
        if stray is not None:
            return failed(f"request {stray.seq} was answered {stray.status} by a proxy, not by an instance")
        counts = Counter(s.headers["x-instance"] for s in good)
        service = self.expected.service or self.terms.traffic.service or ""
        versions = (None, self.expected.version)
        instances = [w.name for w in evidence.lab.of_name(service) if w.version in versions or versions[1] is None]
        if len(instances) < 2:
            return inconclusive(f"{service} has {len(instances)} instances: nothing to balance")
        shown = ", ".join(f"{i} {counts.get(i, 0)}" for i in instances)
        numbers = {i: float(counts.get(i, 0)) for i in instances}
        rule = {"ROUND_ROBIN": self._round_robin, "RANDOM": self._random, "LEAST_REQUEST": self._least_request}
        if foreign := set(counts) - set(instances):
            return failed(f"{shown}; and {', '.join(sorted(foreign))}, which should get nothing", numbers)
        return rule[self.expected.policy]([counts.get(i, 0) for i in instances], instances, shown, numbers)

    def _round_robin(
        self, counts: list[int], instances: list[str], shown: str, numbers: dict[str, float]
    ) -> Verdict:
        """Exact, for sidecars have one worker: each takes its turn, so counts differ by one at most."""
        if len(self.samples) != sum(counts):
            return inconclusive(f"{shown}; {len(self.samples) - sum(counts)} requests were lost", numbers)
        even = max(counts) - min(counts) <= 1
        return passed(f"in turn: {shown}", numbers) if even else failed(f"not in turn: {shown}", numbers)

    def _random(self, counts: list[int], instances: list[str], shown: str, numbers: dict[str, float]) -> Verdict:
        """Pearson's chi-square, on both sides: neither too uneven for equal chances, nor too even for chance."""
        result = chi_square(dict(zip(instances, counts, strict=True)), dict.fromkeys(instances, 1.0))
        alpha = self.terms.alpha
        uneven, even = result.p_value, 1 - chi_square_sf(result.statistic, result.freedom)
        numbers |= {"chi-square": round(result.statistic, 3), "p": result.p_value}
        if uneven < alpha / 2:
            return failed(f"too uneven for equal chances (p = {uneven:.2g}): {shown}", numbers, alpha=alpha)
        if even < alpha / 2:
            return failed(f"too even for chance (p = {even:.2g}): {shown}", numbers, alpha=alpha)
        # a small sample rejects nothing: it has to be one that would have shown half an even share
        fair = 1 / len(counts)
        if binomial_sf(min(counts), sum(counts), fair / 2) > self.terms.beta:
            return inconclusive(f"too few requests to tell: {shown}", numbers)
        return passed(f"at random: {shown}", numbers, alpha=alpha, beta=self.terms.beta)

    def _least_request(
        self, counts: list[int], instances: list[str], shown: str, numbers: dict[str, float]
    ) -> Verdict:
        """The slow instance gets less than its even share, by exact one-sided binomial tests.

        Even is wrong, three quarters of it or less are right.  A sample so large that it shows a share between the
        two speaks for neither.
        """
        slow = self.expected.avoid or ""
        if slow not in instances:
            return inconclusive(f"balance.avoid names no instance: {slow!r} is none of {', '.join(instances)}")
        fair, hits, total = 1 / len(instances), counts[instances.index(slow)], sum(counts)
        less_than_even = binomial_cdf(hits, total, fair) <= self.terms.beta
        more_than_spared = binomial_sf(hits, total, SPARED * fair) <= self.terms.alpha
        errors = {"alpha": self.terms.alpha, "beta": self.terms.beta}
        if less_than_even and more_than_spared:
            return inconclusive(f"{slow} is spared, but by less than a quarter: {shown}", numbers)
        if less_than_even:
            return passed(f"{slow} is spared: {shown}", numbers, **errors)
        if more_than_spared:
            return failed(f"{slow} gets its even share: {shown}", numbers, **errors)
        return inconclusive(f"can't tell whether {slow} is spared: {shown}", numbers)


def _times(count: int) -> str:
    return "never" if count == 0 else "once" if count == 1 else f"{count} times"
