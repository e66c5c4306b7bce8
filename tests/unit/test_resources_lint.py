"""Each check finds its case, at its place, and leaves the mended case alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.documents import parse
from testbed.model.reading import read_inventory, topology_of
from testbed.resources.linting import CHECKS, Severity, lint, lint_documents, to_json, to_sarif
from testbed.resources.loading import load

ROOT = Path(__file__).parents[2]
TOPOLOGY = topology_of(read_inventory((ROOT / "inventories/bookinfo.yaml").read_text(), "bookinfo.yaml"))
PLAYBOOKS = ROOT / "playbooks/resources"

Plain = dict[str, Any]
NETWORKING, SECURITY = "networking.istio.io/v1", "security.istio.io/v1"


def made(kind: str, spec: Plain, name: str = "x", namespace: str = "default", api: str = "") -> Plain:
    group = api or (SECURITY if kind.endswith(("Authentication", "Policy")) else NETWORKING)
    return {"apiVersion": group, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def service(*http: Plain, name: str = "x", **more: Any) -> Plain:
    return made("VirtualService", {"hosts": ["reviews"], "http": list(http), **more}, name)


def to(host: str, **more: Any) -> Plain:
    return {"route": [{"destination": {"host": host, **more}}]}


def rule(host: str = "reviews", name: str = "r", **spec: Any) -> Plain:
    return made("DestinationRule", {"host": host, **spec}, name)


def gateway(port: Plain, name: str = "g", selector: Plain | None = None, **server: Any) -> Plain:
    servers = [{"port": {"number": 80, "name": "http", "protocol": "HTTP", **port}, "hosts": ["*"], **server}]
    return made("Gateway", {"selector": selector or {"istio": "ingressgateway"}, "servers": servers}, name)


def allow(*rules: Plain, name: str = "p", **spec: Any) -> Plain:
    return made("AuthorizationPolicy", {"rules": list(rules), **spec}, name)


def source(**fields: Any) -> Plain:
    return {"from": [{"source": fields}]}


def operation(**fields: Any) -> Plain:
    return {"to": [{"operation": fields}]}


def k8s_service(port: Plain) -> Plain:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "reviews"}, "spec": {"ports": [port]}}


STRICT = made("PeerAuthentication", {"mtls": {"mode": "STRICT"}}, "default", "istio-system")
DISABLE = made("PeerAuthentication", {"mtls": {"mode": "DISABLE"}}, "default", "istio-system")
HALF = [{"destination": {"host": "reviews"}, "weight": 1}, {"destination": {"host": "ratings"}, "weight": 2}]
WHOLE = [{"destination": {"host": "reviews"}, "weight": 33}, {"destination": {"host": "ratings"}, "weight": 67}]
TRIES = {"attempts": 2, "perTryTimeout": "1s"}
DELEGATE = made("VirtualService", {"http": [to("reviews")]}, "d")
PRIVATE = '{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "d": "AQAB"}]}'
PUBLIC = '{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}'


def jwt(jwks: str = PUBLIC, **spec: Any) -> Plain:
    rules = [{"issuer": "https://i.example", "jwks": jwks}]
    return made("RequestAuthentication", {"jwtRules": rules, **spec}, "j")


def uris(*matches: Plain) -> list[Plain]:
    return [{"match": [{"uri": match}], **to("reviews")} for match in matches]


def failover(**policy: Any) -> Plain:
    setting = {"localityLbSetting": {"failover": [{"from": "a", "to": "b"}]}}
    return rule(trafficPolicy={"loadBalancer": setting, **policy})


def egress(name: str) -> Plain:
    return made("Sidecar", {"egress": [{"hosts": ["*/*"]}]}, name)


def entry(host: str) -> Plain:
    ports = [{"number": 80, "name": "http", "protocol": "HTTP"}]
    return made("ServiceEntry", {"hosts": [host], "ports": ports}, "e")


def logs(**more: Any) -> Plain:
    entry = {"filter": {"expression": "response.code >= 400"}, **more}
    return made("Telemetry", {"accessLogging": [entry]}, "logs", api="telemetry.istio.io/v1")


CASES: dict[str, tuple[list[Plain], str, list[Plain]]] = {
    "log-filter-without-provider": (
        [logs()],
        "spec.accessLogging[0].filter",
        [logs(providers=[{"name": "envoy"}])],
    ),
    "unknown-host": ([service(to("nobody"))], "spec.http[0].route[0].destination.host", [service(to("ratings"))]),
    "unknown-subset": (
        [service(to("reviews", subset="v9")), rule(subsets=[{"name": "v1", "labels": {"version": "v1"}}])],
        "spec.http[0].route[0].destination.subset",
        [service(to("reviews", subset="v1")), rule(subsets=[{"name": "v1", "labels": {"version": "v1"}}])],
    ),
    "unknown-port": (
        [service(to("reviews", port={"number": 80}))],
        "spec.http[0].route[0].destination.port.number",
        [service(to("reviews", port={"number": 9080}))],
    ),
    "weights": ([service({"route": HALF})], "spec.http[0].route", [service({"route": WHOLE})]),
    "unreachable-match": (
        [service(*uris({"prefix": "/a"}, {"prefix": "/a/b"}))],
        "spec.http[1].match[0]",
        [service(*uris({"prefix": "/a/b"}, {"prefix": "/a"}))],
    ),
    "conflicting-hosts": (
        [service(to("reviews")), service(to("reviews"), name="y")],
        "spec.hosts[0]",
        [service(to("reviews")), service(to("reviews"), name="y", hosts=["ratings"])],
    ),
    "unknown-gateway": (
        [service(to("reviews"), gateways=["nobody"])],
        "spec.gateways[0]",
        [service(to("reviews"), gateways=["g"]), gateway({})],
    ),
    "unknown-delegate": (
        [service({"delegate": {"name": "nobody"}})],
        "spec.http[0].delegate",
        [service({"delegate": {"name": "d"}}), DELEGATE],
    ),
    "star-in-path": (
        [service(*uris({"prefix": "/a/*"}))],
        "spec.http[0].match[0].uri.prefix",
        [service(*uris({"prefix": "/a/"}))],
    ),
    "tries-outlast-timeout": (
        [service({**to("reviews"), "timeout": "1s", "retries": TRIES})],
        "spec.http[0].retries.perTryTimeout",
        [service({**to("reviews"), "timeout": "3s", "retries": TRIES})],
    ),
    "host-not-routed": ([service(to("reviews"), hosts=["nobody"])], "spec.hosts[0]", [service(to("reviews"))]),
    "rule-for-unknown-host": ([rule("nobody")], "spec.host", [rule()]),
    "empty-subset": (
        [rule(subsets=[{"name": "v9", "labels": {"version": "v9"}}])],
        "spec.subsets[0].labels",
        [rule(subsets=[{"name": "v1", "labels": {"version": "v1"}}])],
    ),
    "mtls-turned-off": (
        [STRICT, rule(trafficPolicy={"tls": {"mode": "DISABLE"}})],
        "spec.trafficPolicy.tls.mode",
        [STRICT, rule(trafficPolicy={"tls": {"mode": "ISTIO_MUTUAL"}})],
    ),
    "rules-for-one-host": (
        [rule(name="a"), rule(name="b")],
        "spec.host",
        [rule(name="a"), rule("ratings", name="b")],
    ),
    "ignored-field": (
        [rule(trafficPolicy={"outlierDetection": {"consecutiveErrors": 5}})],
        "spec.trafficPolicy.outlierDetection.consecutiveErrors",
        [rule(trafficPolicy={"outlierDetection": {"consecutive5xxErrors": 5}})],
    ),
    "failover-without-outliers": (
        [failover()],
        "spec.trafficPolicy.loadBalancer.localityLbSetting",
        [failover(outlierDetection={"consecutive5xxErrors": 1})],
    ),
    "all-may-be-left-out": (
        [rule(trafficPolicy={"outlierDetection": {"maxEjectionPercent": 100}})],
        "spec.trafficPolicy.outlierDetection.maxEjectionPercent",
        [rule(trafficPolicy={"outlierDetection": {"maxEjectionPercent": 100, "minHealthPercent": 1}})],
    ),
    "partial-wildcard": ([entry("*foo.com")], "spec.hosts[0]", [entry("*.foo.com")]),
    "several-sidecars": ([egress("a"), egress("b")], "metadata.name", [egress("a")]),
    "gateway-without-listener": (
        [gateway({}, selector={"istio": "nobody"}), service(to("reviews"), gateways=["g"])],
        "spec.selector",
        [gateway({}), service(to("reviews"), gateways=["g"])],
    ),
    "gateway-port-conflict": (
        [gateway({}), gateway({"protocol": "TCP"}, "h")],
        "spec.servers[0].port",
        [gateway({}), gateway({"number": 81, "protocol": "TCP"}, "h")],
    ),
    "gateway-not-used": ([gateway({})], "metadata.name", [gateway({}), service(to("reviews"), gateways=["g"])]),
    "port-without-protocol": (
        [k8s_service({"name": "web", "port": 80})],
        "spec.ports[0].name",
        [k8s_service({"name": "http-web", "port": 80})],
    ),
    "jwt-without-authentication": (
        [allow(source(requestPrincipals=["*"]))],
        "spec.rules[0].from[0].source.requestPrincipals",
        [allow(source(requestPrincipals=["*"])), jwt()],
    ),
    "allow-nothing": (
        [made("AuthorizationPolicy", {})],
        "spec",
        [made("AuthorizationPolicy", {}), allow(operation(methods=["GET"]))],
    ),
    "allow-for-nobody": (
        [allow(source(principals=["cluster.local/ns/default/sa/reviews"]))],
        "spec.rules[0].from[0].source",
        [allow(source(principals=["cluster.local/ns/default/sa/bookinfo-reviews"]))],
    ),
    "principal-with-scheme": (
        [allow(source(principals=["spiffe://cluster.local/ns/default/sa/bookinfo-reviews"]))],
        "spec.rules[0].from[0].source.principals[0]",
        [allow(source(principals=["cluster.local/ns/default/sa/bookinfo-reviews"]))],
    ),
    "method-in-small-letters": (
        [allow(operation(methods=["get"]))],
        "spec.rules[0].to[0].operation.methods[0]",
        [allow(operation(methods=["GET"]))],
    ),
    "path-without-slash": (
        [allow(operation(paths=["reviews"]))],
        "spec.rules[0].to[0].operation.paths[0]",
        [allow(operation(paths=["/reviews"]))],
    ),
    "identity-without-mtls": (
        [DISABLE, allow(source(namespaces=["default"]))],
        "spec.rules[0].from[0].source.namespaces",
        [STRICT, allow(source(namespaces=["default"]))],
    ),
    "deny-on-http-fields": (
        [allow(operation(methods=["DELETE"]), action="DENY")],
        "spec.rules[0].to",
        [allow(operation(methods=["DELETE"], ports=["9080"]), action="DENY")],
    ),
    "selects-nothing": (
        [jwt(selector={"matchLabels": {"app": "nobody"}})],
        "spec.selector.matchLabels",
        [jwt(selector={"matchLabels": {"app": "reviews"}})],
    ),
    "empty-selector": ([jwt(selector={"matchLabels": {}})], "spec.selector", [jwt()]),
    "policies-for-one-namespace": (
        [made("PeerAuthentication", {}, "a"), made("PeerAuthentication", {}, "b")],
        "metadata.name",
        [made("PeerAuthentication", {}, "a"), made("PeerAuthentication", {}, "a", "istio-system")],
    ),
    "private-key-in-jwks": ([jwt(PRIVATE)], "spec.jwtRules[0].jwks", [jwt(PUBLIC)]),
    "outdated-version": (
        [made("DestinationRule", {"host": "reviews"}, api="networking.istio.io/v1alpha3")],
        "apiVersion",
        [rule()],
    ),
    "deprecated-field": (
        [rule(trafficPolicy={"loadBalancer": {"simple": "LEAST_CONN"}})],
        "spec.trafficPolicy.loadBalancer.simple",
        [rule(trafficPolicy={"loadBalancer": {"simple": "LEAST_REQUEST"}})],
    ),
}


def found(manifests: list[Plain]) -> list[Any]:
    documents = parse(yaml.safe_dump_all(manifests, sort_keys=False), "case.yaml")
    return lint(documents, load(documents), TOPOLOGY)


@pytest.mark.parametrize("code", CASES)
def test_a_check_finds_its_case_and_where(code):
    wrong, field, right = CASES[code]
    hits = [f for f in found(wrong) if f.code == code]
    assert [hit.location.field for hit in hits] == [field]
    assert hits[0].location.line > 0
    assert hits[0].advice
    assert [f for f in found(right) if f.code == code] == []


def test_every_check_has_a_case_here():
    assert {check.code for check in CHECKS} == set(CASES)
    assert len({check.code for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize("folder", ["bookinfo", "article"])
def test_the_shipped_resources_are_clean(folder):
    """Each file of the article stands alone; the lab's own belong together."""
    files = sorted((PLAYBOOKS / folder).glob("*.yaml"))
    groups = [files] if folder == "bookinfo" else [[file] for file in files]
    for group in groups:
        documents = [d for file in group for d in parse(file.read_text(), file.name)]
        assert [str(f) for f in lint_documents(documents, TOPOLOGY)] == []


def test_what_cannot_be_loaded_is_a_finding_and_the_rest_is_checked():
    broken = (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: y}\nspec: {hots: [a]}\n---\n"
    )
    text = broken + yaml.safe_dump(service(to("nobody")))
    findings = lint_documents(parse(text, "mixed.yaml"), TOPOLOGY)
    assert {"invalid", "unknown-host"} <= {f.code for f in findings}
    assert [f.location.line for f in findings] == sorted(f.location.line for f in findings)
    assert next(f for f in findings if f.code == "invalid").advice == "did you mean hosts?"


def test_kubernetes_own_kinds_are_named_as_left_out():
    findings = lint_documents(parse("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n", "d.yaml"))
    assert [(f.code, f.severity) for f in findings] == [("ignored-document", Severity.INFO)]


def test_without_a_topology_nothing_is_said_of_hosts_and_workloads():
    documents = parse(yaml.safe_dump_all([service(to("nobody")), allow(source(principals=["x"]))]), "f.yaml")
    assert [f.code for f in lint_documents(documents)] == []


def test_a_source_subnet_has_no_effect():
    tcp = [{"match": [{"sourceSubnet": "10.0.0.0/8"}], "route": to("reviews")["route"]}]
    hits = found([made("VirtualService", {"hosts": ["reviews"], "tcp": tcp})])
    assert [f.location.field for f in hits if f.code == "ignored-field"] == ["spec.tcp[0].match[0].sourceSubnet"]


def test_a_rule_behind_one_without_match_is_never_reached():
    wrong = [service(to("reviews"), *uris({"prefix": "/a"}))]
    assert [f.location.field for f in found(wrong) if f.code == "unreachable-match"] == ["spec.http[1]"]


def test_a_narrower_match_with_more_conditions_before_a_wider_one_is_fine():
    narrow = {"match": [{"uri": {"prefix": "/"}, "headers": {"x": {"exact": "1"}}}], **to("reviews")}
    assert [f for f in found([service(narrow, *uris({"prefix": "/a"}))]) if f.code == "unreachable-match"] == []


def test_a_match_without_regard_to_case_is_not_compared_with_one_that_has_it():
    loose = {"match": [{"uri": {"prefix": "/A"}, "ignoreUriCase": True}], **to("reviews")}
    strict = {"match": [{"uri": {"prefix": "/A/b"}}], **to("reviews")}
    assert [f for f in found([service(strict, loose)]) if f.code == "unreachable-match"] == []
    assert [f for f in found([service(loose, strict)]) if f.code == "unreachable-match"] == []


def test_findings_as_json_have_everything_a_program_needs():
    (finding,) = to_json(f for f in found(CASES["weights"][0]) if f.code == "weights")
    assert json.loads(json.dumps(finding)) == finding
    assert finding["file"] == "case.yaml"
    assert finding["severity"] == "warning"
    assert finding["line"] > 0
    assert "33.33%" in finding["message"]


def test_findings_as_sarif_name_their_rules_and_places():
    findings = found(CASES["unknown-host"][0])
    log = to_sarif(findings, "1.2.3")
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = {rule["id"]: rule for rule in run["tool"]["driver"]["rules"]}
    assert {result["ruleId"] for result in run["results"]} <= set(rules)
    assert all(rule["shortDescription"]["text"] for rule in rules.values())
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "case.yaml"
    assert place["region"]["startLine"] == findings[0].location.line
    assert {result["level"] for result in run["results"]} <= {"error", "warning", "note"}
