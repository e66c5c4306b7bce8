"""What Istio's webhook refuses is refused here, at its field; each row is one rule."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from testbed.documents import parse
from testbed.errors import BadInput
from testbed.resources.kinds import KINDS
from testbed.resources.loading import load

Plain = dict[str, Any]
ROUTE = [{"destination": {"host": "reviews"}}]
HTTP = {"hosts": ["reviews"], "http": [{"route": ROUTE}]}
PORT = {"number": 80, "name": "http", "protocol": "HTTP"}


def http(**rule: Any) -> Plain:
    return {"hosts": ["reviews"], "http": [{"route": ROUTE, **rule}]}


def match(**conditions: Any) -> Plain:
    return http(match=[conditions])


def only(**rule: Any) -> Plain:
    return {"hosts": ["reviews"], "http": [rule]}


def policy(**fields: Any) -> Plain:
    return {"host": "reviews", "trafficPolicy": fields}


def server(**fields: Any) -> Plain:
    return {"servers": [{"port": PORT, "hosts": ["*"], **fields}]}


def tls(**fields: Any) -> Plain:
    return server(port={**PORT, "protocol": "HTTPS"}, tls=fields)


def entry(**fields: Any) -> Plain:
    return {"hosts": ["x.org"], "ports": [PORT], "resolution": "STATIC", **fields}


def sidecar(**fields: Any) -> Plain:
    return {"egress": [{"hosts": ["./*"]}], **fields}


def source(**fields: Any) -> Plain:
    return {"rules": [{"from": [{"source": fields}]}]}


def operation(**fields: Any) -> Plain:
    return {"rules": [{"to": [{"operation": fields}]}]}


def when(key: str, *values: str) -> Plain:
    return {"rules": [{"when": [{"key": key, "values": list(values)}]}]}


def jwt(**fields: Any) -> Plain:
    return {"jwtRules": [{"issuer": "i", **fields}]}


def hashed(**fields: Any) -> Plain:
    return policy(loadBalancer={"consistentHash": {"useSourceIp": True, **fields}})


def locality(**fields: Any) -> Plain:
    return policy(loadBalancer={"localityLbSetting": fields})


RULE, BALANCER = "spec.http[0]", "spec.trafficPolicy.loadBalancer"
VS, DR, GW, SE, SC = "VirtualService", "DestinationRule", "Gateway", "ServiceEntry", "Sidecar"
AP, RA, PA = "AuthorizationPolicy", "RequestAuthentication", "PeerAuthentication"
WE, TM = "WorkloadEntry", "Telemetry"

REFUSED: list[tuple[str, Plain, str]] = [
    (VS, {"hosts": ["reviews"]}, "spec"),
    (VS, {**HTTP, "hosts": ["*"]}, "spec.hosts[0]"),
    (VS, {**HTTP, "hosts": ["a.*.b"]}, "spec.hosts[0]"),
    (VS, {**HTTP, "hosts": ["*.x.org", "a.x.org"]}, "spec.hosts[1]"),
    (VS, {**HTTP, "gateways": ["a/b/c"]}, "spec.gateways[0]"),
    (VS, {**HTTP, "exportTo": ["*", "x"]}, "spec.exportTo"),
    (VS, {**HTTP, "exportTo": ["~"]}, "spec.exportTo[0]"),
    (VS, {**HTTP, "exportTo": [".", "default"]}, "spec.exportTo[1]"),
    (VS, {"gateways": ["g"], "http": HTTP["http"]}, "spec.gateways"),
    (VS, only(match=[{"uri": {"prefix": "/"}}]), RULE),
    (VS, http(redirect={"uri": "/x"}), f"{RULE}.route"),
    (VS, only(redirect={"uri": "/x"}, fault={"abort": {"httpStatus": 500}}), f"{RULE}.fault"),
    (VS, only(redirect={}), f"{RULE}.redirect"),
    (VS, only(redirect={"uri": "/x", "redirectCode": 200}), f"{RULE}.redirect.redirectCode"),
    (VS, only(redirect={"scheme": "ftp"}), f"{RULE}.redirect.scheme"),
    (VS, only(directResponse={"status": 100}), f"{RULE}.directResponse.status"),
    (VS, only(directResponse={"status": 200}, rewrite={"uri": "/"}), f"{RULE}.rewrite"),
    (VS, http(mirror={"host": "a"}, mirrors=[{"destination": {"host": "b"}}]), f"{RULE}.mirrors"),
    (VS, http(mirrorPercentage={"value": 101}), f"{RULE}.mirrorPercentage.value"),
    (VS, http(timeout="1us"), f"{RULE}.timeout"),
    (VS, http(retries={"attempts": 0, "retryOn": "5xx"}), f"{RULE}.retries"),
    (VS, http(retries={"attempts": 1, "retryOn": "5xx, reset"}), f"{RULE}.retries.retryOn"),
    (VS, http(rewrite={}), f"{RULE}.rewrite"),
    (VS, http(rewrite={"uri": "/", "uriRegexRewrite": {"match": "a", "rewrite": "b"}}), f"{RULE}.rewrite"),
    (VS, http(rewrite={"uriRegexRewrite": {"match": "a"}}), f"{RULE}.rewrite.uriRegexRewrite"),
    (
        VS,
        http(rewrite={"uriRegexRewrite": {"match": "(a", "rewrite": "b"}}),
        f"{RULE}.rewrite.uriRegexRewrite.match",
    ),
    (VS, http(rewrite={"authority": "a"}, headers={"request": {"set": {"Host": "b"}}}), RULE),
    (VS, http(headers={"response": {"set": {"host": "b"}}}), f"{RULE}.headers.response.set.host"),
    (VS, http(headers={"request": {"add": {"x": "100%"}}}), f"{RULE}.headers.request.add.x"),
    (VS, http(headers={"request": {"remove": [":path"]}}), f"{RULE}.headers.request.remove[0]"),
    (VS, http(fault={}), f"{RULE}.fault"),
    (VS, http(fault={"abort": {"httpStatus": 50}}), f"{RULE}.fault.abort.httpStatus"),
    (VS, http(fault={"abort": {"grpcStatus": "nope"}}), f"{RULE}.fault.abort.grpcStatus"),
    (
        VS,
        http(fault={"delay": {"fixedDelay": "1s", "percentage": {"value": 1e-5}}}),
        f"{RULE}.fault.delay.percentage.value",
    ),
    (VS, http(corsPolicy={"allowOrigins": [{}]}), f"{RULE}.corsPolicy.allowOrigins[0]"),
    (VS, http(corsPolicy={"allowMethods": ["get"]}), f"{RULE}.corsPolicy.allowMethods[0]"),
    (VS, http(corsPolicy={"allowHeaders": ["a b"]}), f"{RULE}.corsPolicy.allowHeaders[0]"),
    (VS, http(corsPolicy={"maxAge": "1500ms"}), f"{RULE}.corsPolicy.maxAge"),
    (VS, match(scheme={"prefix": ""}), f"{RULE}.match[0].scheme.prefix"),
    (VS, match(headers={"a b": {"exact": "x"}}), f"{RULE}.match[0].headers.a b"),
    (
        VS,
        match(headers={"@request.auth.claims.sub": {"exact": "x"}}),
        f"{RULE}.match[0].headers.@request.auth.claims.sub",
    ),
    (VS, match(headers={"x": {"regex": "*"}}), f"{RULE}.match[0].headers.x.regex"),
    (VS, match(queryParams={"x": {"regex": "(?=a)"}}), f"{RULE}.match[0].queryParams.x.regex"),
    (VS, match(sourceLabels={"a b": "x"}), f"{RULE}.match[0].sourceLabels.a b"),
    (VS, match(sourceNamespace="a.b"), f"{RULE}.match[0].sourceNamespace"),
    (VS, match(port=70000), f"{RULE}.match[0].port"),
    (VS, http(route=[{"destination": {"host": "*"}}]), f"{RULE}.route[0].destination.host"),
    (VS, http(route=[{"destination": {"host": "a", "subset": "a.b"}}]), f"{RULE}.route[0].destination.subset"),
    (VS, http(route=[{"destination": {"host": "a", "port": {}}}]), f"{RULE}.route[0].destination.port.number"),
    (VS, http(route=[{"destination": {"host": "a"}, "weight": -1}]), f"{RULE}.route[0].weight"),
    (VS, {"hosts": ["a.org"], "tls": [{"match": [], "route": ROUTE}]}, "spec.tls[0].match"),
    (
        VS,
        {"hosts": ["a.org"], "tls": [{"match": [{"sniHosts": ["b.org"]}], "route": ROUTE}]},
        "spec.tls[0].match[0].sniHosts[0]",
    ),
    (VS, {"hosts": ["a.org"], "tcp": [{}]}, "spec.tcp[0]"),
    (
        VS,
        {"hosts": ["a.org"], "tcp": [{"route": ROUTE, "match": [{"destinationSubnets": ["1.2.3.4/40"]}]}]},
        "spec.tcp[0].match[0].destinationSubnets[0]",
    ),
    (DR, {"host": ""}, "spec.host"),
    (DR, policy(), "spec.trafficPolicy"),
    (DR, policy(connectionPool={}), "spec.trafficPolicy.connectionPool"),
    (
        DR,
        policy(connectionPool={"tcp": {"maxConnections": -1}}),
        "spec.trafficPolicy.connectionPool.tcp.maxConnections",
    ),
    (
        DR,
        policy(connectionPool={"http": {"useClientProtocol": True, "h2UpgradePolicy": "UPGRADE"}}),
        "spec.trafficPolicy.connectionPool.http.useClientProtocol",
    ),
    (
        DR,
        policy(outlierDetection={"consecutiveLocalOriginFailures": 1}),
        "spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures",
    ),
    (
        DR,
        policy(outlierDetection={"maxEjectionPercent": 101}),
        "spec.trafficPolicy.outlierDetection.maxEjectionPercent",
    ),
    (DR, policy(portLevelSettings=[{"tls": {"mode": "SIMPLE"}}]), "spec.trafficPolicy.portLevelSettings[0]"),
    (DR, policy(portLevelSettings=[{"port": {"number": 1}}]), "spec.trafficPolicy.portLevelSettings[0]"),
    (DR, policy(tls={"mode": "MUTUAL"}), "spec.trafficPolicy.tls"),
    (
        DR,
        policy(tls={"mode": "SIMPLE", "credentialName": "a", "caCertificates": "b"}),
        "spec.trafficPolicy.tls.credentialName",
    ),
    (
        DR,
        policy(tls={"mode": "SIMPLE", "insecureSkipVerify": True, "subjectAltNames": ["a"]}),
        "spec.trafficPolicy.tls.insecureSkipVerify",
    ),
    (DR, {"host": "a", "subsets": [{"name": "x"}, {"name": "x"}]}, "spec.subsets[1].name"),
    (DR, {"host": "a", "subsets": [{"name": "x.y"}]}, "spec.subsets[0].name"),
    (DR, {"host": "a", "workloadSelector": {"matchLabels": {"a": "b"}}, "exportTo": ["*"]}, "spec.exportTo"),
    (DR, {"host": "a", "workloadSelector": {"matchLabels": {"a": "*"}}}, "spec.workloadSelector.matchLabels.a"),
    (DR, hashed(httpHeaderName="x"), f"{BALANCER}.consistentHash"),
    (DR, hashed(maglev={"tableSize": 65536}), f"{BALANCER}.consistentHash.maglev.tableSize"),
    (DR, hashed(minimumRingSize=1, ringHash={}), f"{BALANCER}.consistentHash.minimumRingSize"),
    (DR, policy(loadBalancer={"simple": "RANDOM", "consistentHash": {}}), BALANCER),
    (DR, policy(loadBalancer={"warmup": {"duration": "1s", "aggression": 0.5}}), f"{BALANCER}.warmup.aggression"),
    (DR, locality(distribute=[{"from": "a", "to": {"a": 50}}]), f"{BALANCER}.localityLbSetting.distribute[0].to"),
    (
        DR,
        locality(distribute=[{"from": "a", "to": {"a/*": 50, "a/b": 50}}]),
        f"{BALANCER}.localityLbSetting.distribute[0].to.a/b",
    ),
    (DR, locality(failover=[{"from": "a", "to": "a"}]), f"{BALANCER}.localityLbSetting.failover[0].to"),
    (DR, locality(failover=[{"from": "a", "to": "b/c"}]), f"{BALANCER}.localityLbSetting.failover[0].to"),
    (
        DR,
        locality(failover=[{"from": "a", "to": "b"}], distribute=[{"from": "a", "to": {"a": 100}}]),
        f"{BALANCER}.localityLbSetting.failover",
    ),
    (GW, {"servers": []}, "spec.servers"),
    (GW, server(hosts=[]), "spec.servers[0].hosts"),
    (GW, server(hosts=["short"]), "spec.servers[0].hosts[0]"),
    (GW, server(hosts=["~/a.org"]), "spec.servers[0].hosts[0]"),
    (GW, server(hosts=["*a.org"]), "spec.servers[0].hosts[0]"),
    (GW, server(port={**PORT, "protocol": "SPDY"}), "spec.servers[0].port.protocol"),
    (GW, server(port={**PORT, "number": 0}), "spec.servers[0].port.number"),
    (GW, server(port={**PORT, "targetPort": 1}), "spec.servers[0].port.targetPort"),
    (GW, server(bind="x"), "spec.servers[0].bind"),
    (GW, server(port={**PORT, "protocol": "HTTPS"}), "spec.servers[0]"),
    (GW, server(tls={"mode": "SIMPLE", "credentialName": "a"}), "spec.servers[0].tls"),
    (GW, tls(mode="SIMPLE"), "spec.servers[0].tls"),
    (GW, tls(mode="MUTUAL", serverCertificate="a", privateKey="b"), "spec.servers[0].tls"),
    (GW, tls(mode="SIMPLE", credentialName="a", credentialNames=["b"]), "spec.servers[0].tls.credentialNames"),
    (GW, tls(mode="ISTIO_MUTUAL", credentialName="a"), "spec.servers[0].tls.credentialName"),
    (GW, tls(mode="AUTO_PASSTHROUGH"), "spec.servers[0].tls.mode"),
    (GW, {"servers": [server()["servers"][0]] * 2}, "spec.servers[1].port.name"),
    (SE, entry(hosts=["*"]), "spec.hosts[0]"),
    (SE, entry(addresses=["x"]), "spec.addresses[0]"),
    (SE, entry(addresses=["10.0.0.0/8"], resolution="DNS"), "spec.addresses[0]"),
    (SE, entry(hosts=["*.x.org"], resolution="DNS"), "spec.hosts[0]"),
    (SE, entry(ports=[PORT, {**PORT, "name": "b"}]), "spec.ports[1].number"),
    (SE, entry(ports=[PORT, {**PORT, "number": 81}]), "spec.ports[1].name"),
    (SE, entry(ports=[{**PORT, "protocol": "SPDY"}]), "spec.ports[0].protocol"),
    (SE, entry(hosts=["a.org", "b.org"], ports=[{**PORT, "protocol": "TCP"}]), "spec.ports[0]"),
    (SE, entry(endpoints=[{"address": "x.org"}]), "spec.endpoints[0].address"),
    (SE, entry(endpoints=[{"address": "1.2.3.4", "ports": {"b": 1}}]), "spec.endpoints[0].ports.b"),
    (SE, entry(endpoints=[{"address": "1.2.3.4"}], workloadSelector={"labels": {"a": "b"}}), "spec.endpoints"),
    (SE, entry(endpoints=[{"address": "1.2.3.4"}], resolution="NONE"), "spec.endpoints"),
    (SE, entry(resolution="DYNAMIC_DNS"), "spec.resolution"),
    (WE, {"labels": {"a": "b"}}, "spec.address"),
    (WE, {"address": "unix://x"}, "spec.address"),
    (WE, {"address": "unix:///x", "ports": {"a": 1}}, "spec.ports"),
    (SC, {}, "spec"),
    (SC, sidecar(egress=[{"hosts": []}]), "spec.egress[0].hosts"),
    (SC, sidecar(egress=[{"hosts": ["a.org"]}]), "spec.egress[0].hosts[0]"),
    (SC, sidecar(egress=[{"hosts": ["./*"]}, {"hosts": ["./*"]}]), "spec.egress[0]"),
    (
        SC,
        sidecar(ingress=[{"port": {"number": 1, "protocol": "HTTP"}, "defaultEndpoint": "10.0.0.1:1"}]),
        "spec.ingress[0].defaultEndpoint",
    ),
    (SC, sidecar(outboundTrafficPolicy={"egressProxy": {"host": "a"}}), "spec.outboundTrafficPolicy.egressProxy"),
    (AP, {"action": "DENY"}, "spec"),
    (AP, {"action": "CUSTOM", "rules": [{}]}, "spec"),
    (AP, {"provider": {"name": "x"}, "rules": [{}]}, "spec.provider"),
    (
        AP,
        {"action": "CUSTOM", "provider": {"name": "x"}, **source(principals=["a"])},
        "spec.rules[0].from[0].source.principals",
    ),
    (AP, {"rules": [{"from": []}]}, "spec.rules[0].from"),
    (AP, source(), "spec.rules[0].from[0].source"),
    (AP, source(principals=[""]), "spec.rules[0].from[0].source.principals[0]"),
    (AP, source(serviceAccounts=["a"], principals=["b"]), "spec.rules[0].from[0].source.serviceAccounts"),
    (AP, source(serviceAccounts=["a/b/c"]), "spec.rules[0].from[0].source.serviceAccounts[0]"),
    (AP, source(trustDomains=["a*b"]), "spec.rules[0].from[0].source.trustDomains[0]"),
    (AP, operation(), "spec.rules[0].to[0].operation"),
    (AP, operation(ports=["http"]), "spec.rules[0].to[0].operation.ports[0]"),
    (AP, operation(paths=["/{**}/{*}"]), "spec.rules[0].to[0].operation.paths[0]"),
    (AP, operation(paths=["/{x}"]), "spec.rules[0].to[0].operation.paths[0]"),
    (AP, when("nonsense", "x"), "spec.rules[0].when[0].key"),
    (AP, when("destination.labels[x]", "x"), "spec.rules[0].when[0].key"),
    (AP, when("request.headers[", "x"), "spec.rules[0].when[0].key"),
    (AP, when("source.ip"), "spec.rules[0].when[0]"),
    (AP, when("source.ip", "x"), "spec.rules[0].when[0].values[0]"),
    (AP, when("destination.port", "x"), "spec.rules[0].when[0].values[0]"),
    (
        AP,
        {"selector": {"matchLabels": {"a": "b"}}, "targetRefs": [{"kind": "Service", "name": "a"}]},
        "spec.targetRefs",
    ),
    (AP, {"targetRefs": [{"kind": "Deployment", "name": "a"}]}, "spec.targetRefs[0].kind"),
    (RA, {"jwtRules": [{}]}, "spec.jwtRules[0]"),
    (RA, jwt(jwksUri="ftp://x"), "spec.jwtRules[0].jwksUri"),
    (RA, jwt(jwks="x"), "spec.jwtRules[0].jwks"),
    (RA, jwt(jwks='{"keys": []}', jwksUri="https://x"), "spec.jwtRules[0].jwks"),
    (RA, jwt(fromHeaders=[{"name": ""}]), "spec.jwtRules[0].fromHeaders[0]"),
    (RA, jwt(outputClaimToHeaders=[{"header": "a b", "claim": "c"}]), "spec.jwtRules[0].outputClaimToHeaders[0]"),
    (PA, {"portLevelMtls": {"80": {"mode": "STRICT"}}}, "spec.portLevelMtls"),
    (PA, {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"0": {}}}, "spec.portLevelMtls.0"),
    (TM, {"accessLogging": [{"providers": [{"name": ""}]}]}, "spec.accessLogging[0].providers[0].name"),
    (TM, {"tracing": []}, "spec.tracing"),
]

TAKEN: list[tuple[str, Plain]] = [
    (VS, HTTP),
    (VS, {**HTTP, "hosts": ["10.0.0.1"]}),
    (VS, {**HTTP, "hosts": ["*"], "gateways": ["g"]}),
    (VS, match(uri={"prefix": ""})),
    (VS, match(withoutHeaders={"x": {"regex": "*"}})),
    (VS, match(headers={":method": {"exact": "GET"}})),
    (VS, http(headers={"request": {"set": {":authority": "x", "a": "%DOWNSTREAM_REMOTE_ADDRESS%", "b": "100%%"}}})),
    (VS, http(retries={"attempts": 2, "retryOn": "503,connect-failure"})),
    (VS, {"http": [{"route": ROUTE}]}),
    (DR, policy(connectionPool={"tcp": {"idleTimeout": "0s"}})),
    (DR, hashed(maglev={"tableSize": 65537})),
    (GW, server(hosts=["ns/*.a.org", "./b.org", "*/c.org", "1.2.3.4"])),
    (GW, server(tls={"httpsRedirect": True})),
    (GW, server(bind="unix:///x", port={**PORT, "number": 0})),
    (SE, entry(addresses=["10.0.0.0/8", "2001:db8::1"], exportTo=["~"])),
    (AP, {}),
    (AP, {"rules": [{}]}),
    (AP, operation(paths=["/a/{*}/b", "/a/{**}", "*"])),
    (AP, when("request.auth.claims[a][b]", "x")),
    (PA, {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"80": {}}}),
]


def loaded(kind: str, spec: Plain) -> None:
    api = next(k.api_version for k in KINDS if k.name == kind)
    manifest = {"apiVersion": api, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    load(parse(yaml.safe_dump(manifest, sort_keys=False), "x.yaml"))


@pytest.mark.parametrize(
    ("kind", "spec", "field"), REFUSED, ids=[f"{k}-{f}-{i}" for i, (k, _, f) in enumerate(REFUSED)]
)
def test_it_is_refused_at_its_field_and_nowhere_else(kind, spec, field):
    with pytest.raises(BadInput) as caught:
        loaded(kind, spec)
    assert [p.location.field for p in caught.value.problems] == [field]
    (problem,) = caught.value.problems
    assert problem.location.line > 0
    assert problem.message
    assert problem.next_step


@pytest.mark.parametrize(("kind", "spec"), TAKEN)
def test_it_is_taken(kind, spec):
    loaded(kind, spec)
