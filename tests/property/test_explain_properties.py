"""What explain promises for any valid resources and any request."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from istio_strategies import bookinfo, resource_sets

from testbed.compiler import compile_mesh
from testbed.compiler.simulator import SimulatedRequest, Simulator

TOPOLOGY = bookinfo()
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
HOSTS = (
    "reviews",
    "ratings.other",
    "productpage:9080",
    "reviews.default.svc.cluster.local:3306",
    "bookinfo.example",
)
requests = st.builds(
    SimulatedRequest,
    source=st.sampled_from([w.name for w in TOPOLOGY.workloads]),
    url=st.builds(
        "{}://{}{}".format,
        st.sampled_from(["http", "https", "grpc"]),
        st.sampled_from([*HOSTS, *(f"{h}:9080" for h in HOSTS if ":" not in h), "192.0.2.7:81", "nowhere"]),
        st.sampled_from(["/", "/productpage", "/reviews/1?user=jason", "/a/../b", "//", "/%2e%2e/x"]),
    ),
    method=st.sampled_from(["GET", "POST", "OPTIONS", "CONNECT"]),
    headers=st.dictionaries(
        st.sampled_from(["x-user", "end-user", "cookie", "authorization", "origin", "x-forwarded-for", "host"]),
        st.text("abcj:/.,=; 123*", max_size=12),
        max_size=3,
    ),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(resource_sets(TOPOLOGY, most=8), st.lists(requests, min_size=1, max_size=8))
def test_every_request_ends_and_its_endings_make_a_whole(resources, asked):
    simulator = Simulator(compile_mesh(resources, TOPOLOGY), TOPOLOGY, resources)
    for request in asked:
        told = simulator.explain(request)
        assert sum((o.probability for o in told.outcomes), Fraction(0)) == 1
        assert all(o.reason and o.answered_by for o in told.outcomes)
        assert json.loads(json.dumps(told.to_json()))["request"] == told.request
        assert next(iter(told.lines())) == told.request
