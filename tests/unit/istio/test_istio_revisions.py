"""Revisions of Istio: what one is called, which may follow which, what belongs to one alone."""

import pytest

from testbed.backends.istio.revisions import goes_back, parts, refusal, revision_of
from testbed.host.directories import testbed_home as home

INSTALLED = home() / "tests" / "golden" / "istio" / "installed-1-31-0.txt"
"""Kinds and names that ``istioctl manifest generate`` of Istio 1.31 made of operator-plain.yaml (1.30 the same)."""

SHARED = {
    "Service istio-system istiod-revision-tag-default",
    "MutatingWebhookConfiguration - istio-revision-tag-default",
    "ValidatingWebhookConfiguration - istiod-default-validator",
    "ServiceAccount istio-system istio-reader-service-account",
}
"""What all revisions have together, beside definitions of resources."""


def names(revision):
    return [f"{p.kind} {p.namespace or '-'} {p.name}" for group in parts(revision) for p in group]


def test_a_revision_can_be_part_of_a_name():
    assert revision_of("1.31.0") == "1-31-0"


def test_what_is_removed_with_a_revision_is_what_the_release_installs_for_it_alone():
    installed = {line for line in INSTALLED.read_text().splitlines() if not line.startswith("CustomResource")}
    assert set(names("1-31-0")) == installed - SHARED


def test_a_control_plane_without_a_revision_leaves_the_name_that_machines_know():
    found = names("default")
    assert "Deployment istio-system istiod" in found
    assert "ClusterRole - istiod-clusterrole-istio-system" in found
    assert "Service istio-system istiod" not in found


def test_a_revision_is_there_until_the_last_of_it_is_gone():
    assert names("1-31-0")[-1] == "ConfigMap istio-system istio-1-31-0"


@pytest.mark.parametrize(
    "there", [(), ("1-31-0",), ("1-31-2",), ("1-30-4",), ("1-32-0",), ("default",), ("canary",)]
)
def test_one_minor_version_up_or_down_is_allowed(there):
    assert refusal(there, "1.31.0") == ""


@pytest.mark.parametrize(("there", "old"), [(("1-29-3",), "1.29.3"), (("1-31-0", "1-33-1"), "1.33.1"), (("2-31-0",), "2.31.0")])  # fmt: skip
def test_further_away_is_refused_in_a_line(there, old):
    said = f"Istio {old} is in the cluster: 1.31.0 is more than one minor version away"
    assert refusal(there, "1.31.0") == said


def test_definitions_of_a_newer_one_stay():
    assert goes_back({"1-30-4", "1-31-0"}, "1.30.4")
    assert not goes_back({"1-30-4", "default"}, "1.31.0")
