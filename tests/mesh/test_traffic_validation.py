"""Whatever resources are valid, Envoy takes what is made of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness import envoy_binary
from hypothesis import HealthCheck, Phase, given, seed, settings
from static_envoy import validate

from testbed.compiler import Layout, compile_mesh
from testbed.documents import parse
from testbed.resources import ResourceSet, dump, load

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden/traffic"
sys.path += [str(TESTS / "property"), str(GOLDEN)]  # what those tests share among themselves


def complaints(resources: ResourceSet, topology, names, work: Path) -> list[tuple[str, str]]:
    compiled = compile_mesh(resources, topology, layout=Layout(str(work), str(work)))
    return list(validate([compiled[n] for n in names], topology, envoy_binary(), work))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
def test_envoy_takes_what_random_resources_become(tmp_path):
    """By seed, so that a failure comes again; what fails is shown as manifests."""
    from istio_strategies import bookinfo, resource_sets

    topology = bookinfo()
    found: list[str] = []

    @seed(20261122)
    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(resource_sets(topology, most=6))
    def run(resources: ResourceSet) -> None:
        for workload, complaint in complaints(resources, topology, ["ingressgateway", "reviews-v1"], tmp_path):
            if "invalid local jwks" not in complaint:  # random text where a key set should be
                found.append(f"{workload}: {complaint}\n{dump(resources)}")

    run()
    assert not found, found[0]


@pytest.mark.slow
def test_envoy_takes_every_recorded_case(tmp_path):
    import test_traffic_golden as golden

    topology = golden.topology()
    found = {}
    for case in sorted(GOLDEN.glob("*.yaml")):
        resources = load(parse(case.read_text(), case.name))
        names = sorted({proxy for proxy, _, _ in golden.SHOW.findall(case.read_text())})
        for workload, complaint in complaints(resources, topology, names, tmp_path):
            found[f"{case.stem} {workload}"] = complaint
    assert not found
