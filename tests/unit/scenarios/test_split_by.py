"""What a split may go by: version, instance, zone, or a header of the answer; each passes and each fails."""

from dataclasses import replace

import pytest
from fake_lab import FakeMesh, weights

from testbed.errors import BadInput
from testbed.model.topology import Locality
from testbed.model.verdict import Outcome
from testbed.scenarios import check

WHEN = {"from": "client", "service": "reviews", "concurrency": 2}
BY = {
    "version": ({}, {"v1": 70, "v2": 30}),
    "instance": ({}, {"reviews-v1": 70, "reviews-v2": 30}),
    "zone": ({}, {"zone-a": 70, "zone-b": 30}),
    "header": ({"header": "X-Color"}, {"red": 70, "blue": 30}),
}


@pytest.fixture
def mesh():
    fake = FakeMesh()
    zones = {"reviews-v1": "zone-a", "reviews-v2": "zone-b"}
    fake.topology = replace(
        fake.topology,
        workloads=tuple(
            replace(w, locality=Locality("region", zones[w.name])) if w.name in zones else w
            for w in fake.topology.workloads
        ),
    )

    def answer(_headers):
        version = fake.version()
        instance, color = f"reviews-{version}", {"v1": "red", "v2": "blue"}[version]
        headers = {"x-service": "reviews", "x-version": version, "x-instance": instance, "x-color": color}
        return 200, headers, b"{}"

    fake.answer = answer
    yield fake
    fake.shutdown()
    fake.server_close()


@pytest.mark.parametrize("by", BY)
def test_a_split_by_anything_passes_as_declared_and_fails_when_arms_are_swapped(mesh, by):
    more, shares = BY[by]
    expect = {"split": {"by": by, "service": "reviews", "weights": shares, "tolerance": 15, **more}}
    mesh.resources = weights(70, 30)
    record = check(mesh.lab(), when=WHEN, expect=expect)
    assert record.outcome is Outcome.PASS, record.verdict.reason
    assert all(arm in record.verdict.reason for arm in shares)
    mesh.resources = weights(30, 70)
    assert check(mesh.lab(), when=WHEN, expect=expect).outcome is Outcome.FAIL


def test_an_answer_whose_header_names_no_declared_arm_is_a_stray(mesh):
    expect = {"split": {"by": "header", "header": "x-color", "weights": {"red": 50, "green": 50}}}
    record = check(mesh.lab(), when=WHEN, expect=expect)
    assert record.outcome is Outcome.FAIL
    assert "was answered by blue" in record.verdict.reason


@pytest.mark.parametrize("split", [{"by": "header"}, {"by": "version", "header": "x-color"}])
def test_by_header_and_the_headers_name_go_together(mesh, split):
    with pytest.raises(BadInput, match="by: header and the header's name go together"):
        check(mesh.lab(), when=WHEN, expect={"split": {"weights": {"red": 1, "blue": 1}, **split}})
