"""What policies mean, asked of the simulator over the compiled filters; tests/mesh asks live Envoys the same."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
import security_cases
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from testbed.compiler.security import security_http_filters
from testbed.compiler.simulator.http import HttpWalk
from testbed.compiler.simulator.origins import Origins
from testbed.compiler.simulator.proxy import SimulatedProxy
from testbed.compiler.simulator.request import Connection, Http
from testbed.compiler.simulator.walk import Place, Trail, Walk
from testbed.documents import parse
from testbed.model.proxy import ProxyConfiguration
from testbed.model.reading import read_inventory, topology_of
from testbed.resources import load

NOW = 1_800_000_000.0
TOPOLOGY = topology_of(read_inventory(security_cases.inventory(), "inventory.yaml"))
ADDRESSES = {w.name.removesuffix("-v1"): str(w.address) for w in TOPOLOGY.workloads}
CALLERS = {w.name.removesuffix("-v1"): w for w in TOPOLOGY.workloads}
CASES = [*security_cases.cases("authorization.yaml", NOW), *security_cases.cases("tokens.yaml", NOW)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_request_is_answered_as_the_case_says(case: security_cases.Case) -> None:
    resources = load(parse(case.manifests("s0", ADDRESSES), "case.yaml"))
    server = CALLERS["s0"]
    manager = HttpConnectionManager(http_filters=security_http_filters(resources, server, TOPOLOGY))
    manager.normalize_path.value = True
    host = manager.route_config.virtual_hosts.add(domains=["*"])
    host.routes.add().match.prefix = "/"
    host.routes[0].direct_response.status = 200
    place = Place(SimulatedProxy(ProxyConfiguration(server.name, {})), server, "inbound")
    for ask in case.asks:
        walk = Walk({}, TOPOLOGY, Origins(resources), NOW)
        headers = {":method": ask.method, ":path": ask.path, ":authority": "s0"}
        headers |= {":authority" if n == "host" else n: v for n, v in ask.headers.items()}
        asked = HttpWalk(walk, place, manager, _connection(ask, server))
        (outcome,) = asked.request(Http(headers), Trail().at(server.name, "inbound"))
        assert outcome.status == ask.expect, (ask, outcome.reason)


def _connection(ask: security_cases.Ask, server: object) -> Connection:
    target = {80: 8080, 81: 8081}[ask.port]
    caller = CALLERS["alpha" if ask.caller == "plain" else ask.caller]
    addresses = ip_address(str(caller.address)), ip_address(ADDRESSES["s0"])
    if ask.caller == "plain":
        return Connection(*addresses, target)
    sni = f"outbound_.{ask.port}_._.s0.default.svc.cluster.local"
    identity = caller.spiffe_id(TOPOLOGY.trust_domain)
    return Connection(*addresses, target, tls=True, alpn=("istio",), sni=sni, identity=identity)
