"""Judges of each answer by itself: status, body, header."""

from __future__ import annotations

from testbed.model.expectation import Header, Text
from testbed.model.verdict import Verdict, passed
from testbed.scenarios.judge import EveryRequest, Terms
from testbed.scenarios.shares import described
from testbed.traffic import Sample


class StatusJudge(EveryRequest):
    """Every answer has one of the statuses."""

    name = "status"

    def __init__(self, expected: list[int], terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def complaint(self, sample: Sample) -> str:
        """Any other status."""
        if sample.answered and sample.status in self.expected:
            return ""
        wanted = " or ".join(map(str, self.expected))
        return f"answered {described(sample)}, not {wanted}" if sample.answered else sample.error

    def kept(self, numbers: dict[str, float]) -> Verdict:
        """All of them."""
        return passed(f"all {self.seen} answers have status {' or '.join(map(str, self.expected))}", numbers)


class BodyJudge(EveryRequest):
    """Every answer's body matches."""

    name = "body"

    def __init__(self, expected: Text, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def complaint(self, sample: Sample) -> str:
        """What of the text doesn't match."""
        if not sample.answered:
            return sample.error
        wrong = mismatch(self.expected, sample.body)
        return f"the body {wrong}" if wrong else ""

    def kept(self, numbers: dict[str, float]) -> Verdict:
        """All of them."""
        return passed(f"all {self.seen} bodies match", numbers)


class HeaderJudge(EveryRequest):
    """Every answer's header matches."""

    name = "header"

    def __init__(self, expected: Header, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def complaint(self, sample: Sample) -> str:
        """What of the header doesn't match."""
        if not sample.answered:
            return sample.error
        wrong = mismatch(self.expected, sample.headers.get(self.expected.name.lower(), ""))
        return f"the header {self.expected.name} {wrong}" if wrong else ""

    def kept(self, numbers: dict[str, float]) -> Verdict:
        """All of them."""
        return passed(f"the header {self.expected.name} of all {self.seen} answers matches", numbers)


def mismatch(expected: Text, text: str) -> str:
    """What ``text`` does not do, as the rest of a sentence; empty when it does all."""
    import re

    shown = repr(text if len(text) <= 80 else text[:77] + "...")
    if expected.equals is not None and text != expected.equals:
        return f"is {shown}, not {expected.equals!r}"
    if expected.contains is not None and expected.contains not in text:
        return f"{shown} lacks {expected.contains!r}"
    if expected.lacks is not None and expected.lacks in text:
        return f"{shown} contains {expected.lacks!r}"
    if expected.matches is not None and not re.search(expected.matches, text):
        return f"{shown} does not match {expected.matches}"
    return ""
