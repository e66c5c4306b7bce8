"""A policy means the same wherever Istio lets it be written: for a service, a port, a subset, a subset's port."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.compiler import compile_mesh
from testbed.documents import parse
from testbed.resources import load

sys.path.append(str(Path(__file__).parents[2] / "golden/traffic"))

LOAD_BALANCERS = {
    "simple": {"simple": "RANDOM"},
    "header": {"consistentHash": {"httpHeaderName": "x"}},
    "cookie": {
        "consistentHash": {
            "httpCookie": {"name": "c", "path": "/", "ttl": "1s", "attributes": [{"name": "a", "value": "b"}]}
        }
    },
    "source": {"consistentHash": {"useSourceIp": True}},
    "query": {"consistentHash": {"httpQueryParameterName": "q"}},
    "ring": {"consistentHash": {"httpHeaderName": "x", "ringHash": {"minimumRingSize": 9}}},
    "maglev": {"consistentHash": {"httpHeaderName": "x", "maglev": {"tableSize": 251}}},
    "old-ring": {"consistentHash": {"httpHeaderName": "x", "minimumRingSize": 7}},
    "distribute": {"localityLbSetting": {"distribute": [{"from": "north/*", "to": {"north/zone-1/*": 100}}]}},
    "failover": {"localityLbSetting": {"failover": [{"from": "north", "to": "south"}]}},
    "priority": {"localityLbSetting": {"failoverPriority": ["version"]}},
    "off": {"localityLbSetting": {"enabled": False}},
    "warmup": {"warmup": {"duration": "5s", "minimumPercent": 5, "aggression": 2}},
    "warmup-old": {"warmupDurationSecs": "5s"},
}
POOL = {
    "tcp": {
        "maxConnections": 1,
        "connectTimeout": "1s",
        "tcpKeepalive": {"probes": 1, "time": "2s", "interval": "3s"},
        "maxConnectionDuration": "4s",
        "idleTimeout": "5s",
    },
    "http": {
        "http1MaxPendingRequests": 6,
        "http2MaxRequests": 7,
        "maxRequestsPerConnection": 8,
        "maxRetries": 9,
        "idleTimeout": "10s",
        "h2UpgradePolicy": "UPGRADE",
        "maxConcurrentStreams": 11,
    },
}
OUTLIER = {
    "consecutiveErrors": 1,
    "splitExternalLocalOriginErrors": True,
    "consecutiveLocalOriginFailures": 2,
    "consecutiveGatewayErrors": 3,
    "consecutive5xxErrors": 4,
    "interval": "5s",
    "baseEjectionTime": "6s",
    "maxEjectionPercent": 7,
    "minHealthPercent": 8,
}
SECRET = {"clientCertificate": "/c", "privateKey": "/k", "caCertificates": "/ca", "caCrl": "/crl"}
TLS = {
    "disable": {"mode": "DISABLE"},
    "mutual": {"mode": "MUTUAL", **SECRET, "sni": "a", "subjectAltNames": ["b"]},
    "credential": {"mode": "SIMPLE", "credentialName": "x"},
    "careless": {"mode": "SIMPLE", "insecureSkipVerify": True},
    "mesh": {"mode": "ISTIO_MUTUAL", "sni": "c"},
}
POLICIES: dict[str, dict[str, Any]] = {
    **{f"lb-{k}": {"loadBalancer": v, "outlierDetection": OUTLIER} for k, v in LOAD_BALANCERS.items()},
    "pool": {"connectionPool": POOL},
    "client-protocol": {"connectionPool": {"http": {"useClientProtocol": True}}},
    **{f"tls-{k}": {"tls": v} for k, v in TLS.items()},
}
PORT = {"port": {"number": 9080}}
ELSEWHERE = [{"port": {"number": 9090}, "loadBalancer": {"simple": "RANDOM"}}]


def configuration(spec: dict[str, Any], subset: str) -> tuple[Any, Any]:
    """The client's cluster and endpoints for a subset, names and origin left out."""
    import test_traffic_golden as golden

    manifest = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {"host": "reviews", "workloadSelector": {"matchLabels": {"app": "client"}}, **spec},
    }
    compiled = compile_mesh(load(parse(yaml.safe_dump(manifest), "rule.yaml")), golden.topology())["client-v1"]
    name = f"outbound|9080|{subset}|reviews.default.svc.cluster.local"
    (cluster,) = golden.shown(compiled, "cluster", name)
    for key in ("name", "metadata", "eds_cluster_config"):
        cluster.pop(key, None)
    text = json.dumps(cluster).replace(f".{subset}_.reviews", "._.reviews" if subset else ".reviews")
    return json.loads(text.replace("_.v1_.", "_._.")), golden.shown(compiled, "endpoints", name)


@pytest.mark.proves(
    "DestinationRule.spec.subsets[].trafficPolicy.*",
    "DestinationRule.spec.trafficPolicy.portLevelSettings[].*",
)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_policy_means_the_same_wherever_it_is_written(policy: dict[str, Any]) -> None:
    everybody = {"name": "v1", "labels": {"app": "reviews"}}
    general = configuration({"trafficPolicy": policy}, "")
    by_port = configuration({"trafficPolicy": {"portLevelSettings": [*ELSEWHERE, {**PORT, **policy}]}}, "")
    assert by_port == general
    plain = configuration({"trafficPolicy": policy, "subsets": [everybody]}, "v1")
    own = configuration({"subsets": [{**everybody, "trafficPolicy": policy}]}, "v1")
    settings = {"portLevelSettings": [{**PORT, **policy}, *ELSEWHERE]}
    assert configuration({"subsets": [{**everybody, "trafficPolicy": settings}]}, "v1") == own
    assert plain[0] == own[0]
    nothing = configuration({"subsets": [everybody]}, "v1")
    assert own != nothing


@pytest.mark.proves("DestinationRule.spec.subsets[].trafficPolicy.retryBudget.*")
def test_a_subset_has_a_retry_budget_of_its_own() -> None:
    subset = {"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": {"retryBudget": {"percent": 5}}}
    cluster, _ = configuration({"trafficPolicy": {"retryBudget": {"percent": 50}}, "subsets": [subset]}, "v1")
    budget = cluster["circuit_breakers"]["thresholds"][0]["retry_budget"]
    assert budget == {"budget_percent": {"value": 5.0}, "min_retry_concurrency": 3}


def test_a_ports_settings_replace_the_services() -> None:
    """Istio's reference: what a port's settings leave out has its default, not the service's value."""
    policy = {"loadBalancer": {"simple": "RANDOM"}, "portLevelSettings": [{**PORT, "connectionPool": POOL}]}
    cluster, _ = configuration({"trafficPolicy": policy}, "")
    assert cluster["lb_policy"] == "LEAST_REQUEST"
