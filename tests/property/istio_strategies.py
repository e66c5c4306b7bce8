"""Valid Istio resources over a topology, at random: for the properties that loader and compiler promise.

``resource_sets(topology)`` gives :class:`ResourceSet`; ``manifests(topology)`` the plain manifests they are read
from.  All that is drawn is valid by construction, refers to hosts, subsets, ports and labels of the topology (some
to none of them: that is valid too), and stays small.  Nearly every field that is supported can occur.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Any

import yaml
from hypothesis import strategies as st

from testbed.documents import Document, parse
from testbed.model.topology import (
    Locality,
    MeshService,
    MeshWorkload,
    Protocol,
    ProxyKind,
    ServicePort,
    Topology,
)
from testbed.resources.loading import load
from testbed.resources.resource import ResourceSet

Plain = dict[str, Any]
Strategy = st.SearchStrategy[Any]

NETWORKING, SECURITY = "networking.istio.io/v1", "security.istio.io/v1"


def bookinfo() -> Topology:
    """A small mesh: three services in two namespaces, two versions of one, a client and a gateway."""
    http, tcp = ServicePort("http", 9080, Protocol.HTTP, 9080), ServicePort("tcp-db", 3306, Protocol.TCP, 3306)

    def service(number: int, name: str, namespace: str, *ports: ServicePort) -> MeshService:
        return MeshService(name, namespace, IPv4Address(f"240.240.0.{number}"), ports, {"app": name})

    def workload(number: int, app: str, version: str, namespace: str, *ports: ServicePort) -> MeshWorkload:
        return MeshWorkload(
            f"{app}-{version}", namespace, f"bookinfo-{app}", {"app": app, "version": version},
            IPv4Address(f"10.78.1.{number}"), f"node-{number}", Locality("region-1", f"zone-{number % 2}"),
            ports=ports, service=app,
        )  # fmt: skip

    gateway = MeshWorkload(
        "ingressgateway", "istio-system", "ingressgateway", {"istio": "ingressgateway"}, IPv4Address("10.78.1.9"),
        "edge", kind=ProxyKind.GATEWAY, ports=(ServicePort("http", 80, Protocol.HTTP, 80),),
    )  # fmt: skip
    return Topology(
        (
            service(1, "productpage", "default", http),
            service(2, "reviews", "default", http, tcp),
            service(3, "ratings", "other", http),
        ),
        (
            workload(1, "productpage", "v1", "default", http),
            workload(2, "reviews", "v1", "default", http, tcp),
            workload(3, "reviews", "v2", "default", http, tcp),
            workload(4, "ratings", "v1", "other", http),
            workload(5, "client", "v1", "default"),
            gateway,
        ),
    )


def manifests(topology: Topology, most: int = 4) -> st.SearchStrategy[list[Plain]]:
    """Up to ``most`` manifests with keys of their own, any kinds of Istio."""
    draw = _Over(topology)
    any_manifest = st.one_of(
        draw.manifest(NETWORKING, "VirtualService", draw.virtual_service()),
        draw.manifest(NETWORKING, "DestinationRule", draw.destination_rule()),
        draw.manifest(NETWORKING, "Gateway", draw.gateway()),
        draw.manifest(NETWORKING, "ServiceEntry", draw.service_entry()),
        draw.manifest(NETWORKING, "WorkloadEntry", draw.workload_entry()),
        draw.manifest(NETWORKING, "Sidecar", draw.sidecar()),
        draw.manifest(SECURITY, "PeerAuthentication", draw.peer_authentication()),
        draw.manifest(SECURITY, "RequestAuthentication", draw.request_authentication()),
        draw.manifest(SECURITY, "AuthorizationPolicy", draw.authorization_policy()),
        draw.manifest("telemetry.istio.io/v1", "Telemetry", draw.telemetry()),
    )
    return st.lists(any_manifest, max_size=most, unique_by=_key)


def resource_sets(topology: Topology, most: int = 4) -> st.SearchStrategy[ResourceSet]:
    """Resources that the loader takes."""
    return manifests(topology, most).map(lambda found: load(as_documents(found)))


def as_documents(found: Sequence[Plain]) -> list[Document]:
    """Manifests as documents of a file."""
    return parse(yaml.safe_dump_all(found, sort_keys=False), "generated.yaml")


def _key(manifest: Plain) -> tuple[str, str, str]:
    return manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def some(strategy: Strategy, most: int = 2) -> Strategy:
    """One or more."""
    return st.lists(strategy, min_size=1, max_size=most)


def different(strategy: Strategy, most: int = 2, by: Callable[[Any], Any] = str) -> Strategy:
    """One or more, no two the same."""
    return st.lists(strategy, min_size=1, max_size=most, unique_by=by)


def fields(required: dict[str, Strategy] | None = None, **optional: Strategy) -> Strategy:
    """A message: ``required`` fields, and any of the optional ones (a trailing underscore is dropped)."""
    return st.fixed_dictionaries(required or {}, optional={k.rstrip("_"): v for k, v in optional.items()})


def at_least_one(**choices: Strategy) -> Strategy:
    """A message of one or more of the fields."""
    return st.fixed_dictionaries({}, optional=choices).filter(bool)


def one_of(**choices: Strategy) -> Strategy:
    """A message of exactly one of the fields."""
    return st.one_of(*(st.fixed_dictionaries({name: value}) for name, value in choices.items()))


def joined(*parts: Strategy) -> Strategy:
    """One message of several parts."""
    return st.tuples(*parts).map(lambda found: {k: v for part in found for k, v in part.items()})


NAMES = st.sampled_from(["one", "two", "three", "a-b"])
WORDS = st.sampled_from(["jason", "x", "en-US", "v 1", "100%%", "*", "a,b"])
HEADERS = st.sampled_from(["x-user", "end-user", "cookie", "User-Agent"])
PATHS = st.sampled_from(["/", "/productpage", "/reviews/0", "/static/", "/api/v1"])
REGEXES = st.sampled_from(["/api/v[0-9]+/.*", "^jason$", "(?i)mobile.*", "[a-z]{1,8}", "a|b"])
DURATIONS = st.sampled_from(["1ms", "250ms", "1s", "1.5s", "10s", "2m", "1h"])
PERCENTS = st.sampled_from([0.0, 0.01, 50.0, 100.0, 12.5])
PERCENT = st.fixed_dictionaries({"value": PERCENTS})
NUMBERS = st.integers(1, 1000)
BOOLS = st.booleans()
CIDRS = st.sampled_from(["10.0.0.0/8", "192.168.1.1", "2001:db8::/32", "0.0.0.0/0"])
LABELS = st.sampled_from([{"app": "reviews"}, {"version": "v1"}, {"app": "ratings", "version": "v1"}])
MATCH = st.one_of(one_of(exact=WORDS), one_of(prefix=WORDS), one_of(regex=REGEXES))
LOCALITIES = st.sampled_from(["region-1/zone-0", "region-1/zone-1", "region-2"])


class _Over:
    """Strategies of specs whose references are a topology's."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        hosts = [s.host for s in topology.services]
        self.short = st.sampled_from([s.name for s in topology.services])
        self.hosts = st.one_of(st.sampled_from(hosts), self.short)
        self.full = st.sampled_from(hosts)
        self.namespaces = st.sampled_from(sorted({w.namespace for w in topology.workloads}))
        self.ports = st.sampled_from(sorted({p.number for s in topology.services for p in s.ports}))
        accounts = sorted({(w.namespace, w.service_account) for w in topology.workloads})
        domain = topology.trust_domain
        self.principals = st.sampled_from(
            [f"{domain}/ns/{n}/sa/{a}" for n, a in accounts] + ["*", f"{domain}/ns/x/*"]
        )
        self.accounts = st.sampled_from([f"{n}/{a}" for n, a in accounts] + [a for _, a in accounts])
        self.gateways = st.sampled_from(["mesh", "default/one", "istio-system/two", "one"])

    def manifest(self, api_version: str, kind: str, spec: Strategy) -> Strategy:
        return st.builds(
            lambda name, namespace, spec: {
                "apiVersion": api_version,
                "kind": kind,
                "metadata": {"name": name, "namespace": namespace},
                "spec": spec,
            },
            NAMES, self.namespaces, spec,
        )  # fmt: skip

    def destination(self) -> Strategy:
        port = st.fixed_dictionaries({"number": self.ports})
        return fields({"host": self.hosts}, subset=st.sampled_from(["v1", "v2"]), port=port)

    def headers(self) -> Strategy:
        operations = fields(
            set=st.dictionaries(HEADERS, WORDS, max_size=2),
            add=st.dictionaries(HEADERS, WORDS, max_size=2),
            remove=some(HEADERS),
        )
        return fields(request=operations, response=operations)

    def routes(self, headers: bool) -> Strategy:
        """One destination, or several with weights above 0."""
        extra = {"headers": self.headers()} if headers else {}
        one = fields({"destination": self.destination()}, weight=st.integers(0, 100), **extra)
        many = fields({"destination": self.destination(), "weight": st.integers(1, 100)}, **extra)
        return st.one_of(st.lists(one, min_size=1, max_size=1), st.lists(many, min_size=2, max_size=3))

    def virtual_service(self) -> Strategy:
        mesh = fields({"hosts": different(self.full)}, exportTo=st.sampled_from([["."], ["*"]]))
        gateway = fields(
            {"hosts": st.just(["*.example.com"]), "gateways": st.sampled_from([["default/one"], ["one"]])}
        )
        both = fields({"hosts": different(self.short), "gateways": different(self.gateways)})
        routes = at_least_one(http=some(self.http(), 3), tcp=some(self.tcp()))
        delegate = fields({"http": some(self.http(delegates=False))})
        return st.one_of(joined(st.one_of(mesh, gateway, both), routes), self.tls(), delegate)

    def http(self, delegates: bool = True) -> Strategy:
        match = fields(
            name=NAMES,
            uri=st.one_of(one_of(exact=PATHS), one_of(prefix=PATHS), one_of(regex=REGEXES)),
            scheme=one_of(exact=st.sampled_from(["http", "https"])),
            method=one_of(exact=st.sampled_from(["GET", "POST"])),
            authority=MATCH,
            headers=st.dictionaries(HEADERS, st.one_of(MATCH, st.just({})), max_size=2),
            port=self.ports,
            sourceLabels=LABELS,
            gateways=some(self.gateways),
            queryParams=st.dictionaries(NAMES, MATCH, max_size=2),
            ignoreUriCase=BOOLS,
            withoutHeaders=st.dictionaries(HEADERS, MATCH, max_size=2),
            sourceNamespace=self.namespaces,
            statPrefix=NAMES,
        )
        shared = fields(name=NAMES, match=some(match), headers=self.headers(), corsPolicy=self.cors())
        more = fields(
            timeout=DURATIONS,
            retries=self.retries(),
            fault=self.fault(),
            rewrite=self.rewrite(),
        )
        mirror = st.one_of(
            fields(mirror=self.destination(), mirrorPercentage=PERCENT),
            fields(mirrors=some(fields({"destination": self.destination()}, percentage=PERCENT))),
            fields(mirror=self.destination(), mirrorPercent=st.integers(0, 100)),
        )
        forward = joined(shared, st.fixed_dictionaries({"route": self.routes(headers=True)}), more, mirror)
        redirect = st.fixed_dictionaries({"redirect": self.redirect()})
        direct = st.fixed_dictionaries({"directResponse": self.direct_response()})
        to = st.fixed_dictionaries({"delegate": fields({"name": NAMES}, namespace=self.namespaces)})
        delegating = joined(fields(match=some(match)), to)
        return st.one_of(
            forward, joined(shared, redirect), joined(shared, direct), *([delegating] if delegates else [])
        )

    def retries(self) -> Strategy:
        on = st.sampled_from(["5xx", "gateway-error,connect-failure", "503,reset", "retriable-4xx"])
        return st.one_of(
            st.just({"attempts": 0}),
            fields(
                {"attempts": st.integers(1, 10)},
                perTryTimeout=DURATIONS,
                retryOn=on,
                retryRemoteLocalities=BOOLS,
                retryIgnorePreviousHosts=BOOLS,
                backoff=DURATIONS,
            ),
        )

    def fault(self) -> Strategy:
        delay = fields({"fixedDelay": DURATIONS}, percentage=PERCENT, percent=st.integers(0, 100))
        error = one_of(httpStatus=st.integers(200, 599), grpcStatus=st.sampled_from(["UNAVAILABLE", "NOT_FOUND"]))
        return at_least_one(delay=delay, abort=joined(error, fields(percentage=PERCENT)))

    def rewrite(self) -> Strategy:
        regex = st.fixed_dictionaries({"match": REGEXES, "rewrite": st.sampled_from(["/x", r"\1", "/"])})
        authority = st.sampled_from(["example.com", "reviews"])
        return st.one_of(
            fields({"uri": PATHS}, authority=authority),
            fields({"uriRegexRewrite": regex}, authority=authority),
            fields({"authority": authority}),
        )

    def redirect(self) -> Strategy:
        derived = st.sampled_from(["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"])
        port = st.one_of(st.just({}), one_of(port=self.ports, derivePort=derived))
        place = at_least_one(uri=PATHS, authority=st.just("example.com"), scheme=st.sampled_from(["http", "https"]))
        return joined(place, port, fields(redirectCode=st.sampled_from([301, 302, 303, 307, 308])))

    def direct_response(self) -> Strategy:
        body = one_of(string=WORDS, bytes=st.just("aGk="))
        return fields({"status": st.integers(200, 599)}, body=body)

    def cors(self) -> Strategy:
        return fields(
            allowOrigins=some(MATCH),
            allowOrigin=some(st.sampled_from(["*", "https://example.com"])),
            allowMethods=some(st.sampled_from(["GET", "POST", "*"])),
            allowHeaders=some(HEADERS),
            exposeHeaders=some(HEADERS),
            maxAge=st.sampled_from(["1s", "24h"]),
            allowCredentials=BOOLS,
            unmatchedPreflights=st.sampled_from(["UNSPECIFIED", "FORWARD", "IGNORE"]),
        )

    def connection_match(self, **more: Strategy) -> Strategy:
        return fields(
            destinationSubnets=some(CIDRS),
            port=self.ports,
            sourceLabels=LABELS,
            gateways=some(self.gateways),
            sourceNamespace=self.namespaces,
            **more,
        )

    def tcp(self) -> Strategy:
        match = self.connection_match(sourceSubnet=CIDRS)
        return fields({"route": self.routes(headers=False)}, match=some(match))

    def tls(self) -> Strategy:
        def spec(host: str) -> Strategy:
            match = joined(st.just({"sniHosts": [host]}), self.connection_match())
            rule = st.fixed_dictionaries({"match": some(match), "route": self.routes(headers=False)})
            return fields({"hosts": st.just([host]), "tls": some(rule)}, gateways=st.just(["mesh"]))

        return st.sampled_from(["wiki.example.com", "*.example.com"]).flatmap(spec)

    def destination_rule(self) -> Strategy:
        subset = fields({"name": st.sampled_from(["v1", "v2"])}, labels=LABELS, trafficPolicy=self.policy())
        common = {
            "trafficPolicy": self.policy(),
            "subsets": st.lists(subset, max_size=2, unique_by=lambda s: s["name"]),
        }
        hosts = st.one_of(self.hosts, st.just("*.example.com"))
        selecting = fields(
            {"host": hosts, "workloadSelector": st.fixed_dictionaries({"matchLabels": LABELS})}, **common
        )
        return st.one_of(fields({"host": hosts}, exportTo=st.sampled_from([["."], ["*"]]), **common), selecting)

    def policy(self) -> Strategy:
        parts = self.policy_parts()
        port = st.fixed_dictionaries({"port": st.fixed_dictionaries({"number": self.ports})})
        budget = fields(percent=PERCENTS, minRetryConcurrency=NUMBERS)
        ports = st.lists(joined(port, at_least_one(**parts)), max_size=2, unique_by=lambda p: p["port"]["number"])
        return joined(at_least_one(**parts), fields(portLevelSettings=ports, retryBudget=budget))

    def policy_parts(self) -> dict[str, Strategy]:
        return {
            "loadBalancer": self.load_balancer(),
            "connectionPool": connection_pool(),
            "outlierDetection": outlier_detection(),
            "tls": client_tls(),
        }

    def load_balancer(self) -> Strategy:
        cookie = fields(
            {"name": NAMES},
            path=PATHS,
            ttl=st.sampled_from(["0s", "60s"]),
            attributes=different(fields({"name": NAMES}, value=WORDS), by=lambda a: a["name"]),
        )
        key = one_of(
            httpHeaderName=HEADERS, httpCookie=cookie, useSourceIp=st.just(True), httpQueryParameterName=NAMES
        )
        algorithm = st.one_of(
            st.just({}),
            st.just({"minimumRingSize": 512}),
            one_of(
                ringHash=fields(minimumRingSize=NUMBERS),
                maglev=st.just({"tableSize": 65537}),
            ),
        )
        names = ["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"]
        how = st.one_of(st.just({}), one_of(simple=st.sampled_from(names), consistentHash=joined(key, algorithm)))
        warmup = fields({"duration": DURATIONS}, minimumPercent=PERCENTS, aggression=st.sampled_from([1.0, 2.5]))
        slow = st.one_of(st.just({}), one_of(warmup=warmup, warmupDurationSecs=DURATIONS))
        return joined(how, slow, fields(localityLbSetting=locality()))

    def gateway(self) -> Strategy:
        hosts = different(st.sampled_from(["*", "*.example.com", "default/shop.example.com", "./a.example.com"]))
        plain = fields({"hosts": hosts}, name=NAMES, tls=st.just({"httpsRedirect": True}))
        tcp, tls = fields({"hosts": hosts}), fields({"hosts": hosts, "tls": server_tls()})
        server = st.one_of(
            st.tuples(st.sampled_from(["HTTP", "HTTP2", "GRPC"]), plain),
            st.tuples(st.just("TCP"), tcp),
            st.tuples(st.sampled_from(["HTTPS", "TLS"]), tls),
        )

        def with_ports(found: list[tuple[str, Plain]]) -> list[Plain]:
            return [
                {"port": {"number": 8000 + i, "name": f"port-{i}", "protocol": protocol}, **rest}
                for i, (protocol, rest) in enumerate(found)
            ]

        selectors = st.sampled_from([{"istio": "ingressgateway"}, {"istio": "other"}])
        return st.fixed_dictionaries({"servers": some(server, 3).map(with_ports), "selector": selectors})

    def workload_entry(self) -> Strategy:
        return fields(
            {"address": st.sampled_from(["10.1.2.3", "2001:db8::1"])},
            ports=st.dictionaries(st.just("http"), st.integers(1, 65535), max_size=1),
            labels=LABELS,
            network=NAMES,
            locality=LOCALITIES,
            weight=NUMBERS,
            serviceAccount=NAMES,
        )

    def service_entry(self) -> Strategy:
        ports = fields(
            {"number": st.just(80), "name": st.just("http")},
            protocol=st.sampled_from(["HTTP", "HTTP2", "GRPC"]),
            targetPort=self.ports,
        )
        common = {"location": st.sampled_from(["MESH_EXTERNAL", "MESH_INTERNAL"]), "exportTo": st.just(["*"])}
        common["subjectAltNames"] = some(st.just("spiffe://cluster.local/ns/x/sa/y"))
        hosts, listed = (
            st.sampled_from([["api.example.com"], ["db.example.com"]]),
            st.lists(ports, min_size=1, max_size=1),
        )
        base = {"hosts": hosts, "ports": listed}
        addresses = some(st.sampled_from(["240.241.0.1", "10.9.0.0/16"]))
        single = some(st.just("240.241.0.2"), 1)
        inline = some(self.workload_entry())
        selector = st.fixed_dictionaries({"labels": LABELS})
        return st.one_of(
            fields(
                {**base, "hosts": st.just(["*.example.org"])},
                resolution=st.just("NONE"),
                addresses=addresses,
                **common,
            ),
            fields({**base, "resolution": st.just("STATIC"), "endpoints": inline}, addresses=addresses, **common),
            fields(
                {**base, "resolution": st.just("STATIC"), "workloadSelector": selector},
                addresses=addresses,
                **common,
            ),
            fields({**base, "resolution": st.just("DNS")}, addresses=single, endpoints=inline, **common),
            fields({**base, "resolution": st.just("DNS_ROUND_ROBIN")}, addresses=single, **common),
        )

    def sidecar(self) -> Strategy:
        hosts = different(
            st.sampled_from(["*/*", "./*", "default/*", "other/ratings.other.svc.cluster.local", "~/*"])
        )
        egress_port = st.fixed_dictionaries({"number": self.ports, "protocol": st.just("HTTP"), "name": NAMES})
        with_port = fields(
            {"port": egress_port, "hosts": hosts}, bind=st.just("127.0.0.1"), captureMode=capture_mode()
        )
        by_port = st.lists(with_port, max_size=2, unique_by=lambda e: e["port"]["number"])
        rest = st.lists(fields({"hosts": hosts}), min_size=1, max_size=1)
        ingress = fields(
            {"port": st.fixed_dictionaries({"number": self.ports, "protocol": st.just("HTTP"), "name": NAMES})},
            bind=st.just("0.0.0.0"),
            captureMode=capture_mode(),
            defaultEndpoint=st.sampled_from(["127.0.0.1:8080", "0.0.0.0:9080"]),
            connectionPool=connection_pool(),
        )
        outbound = st.one_of(
            fields({"mode": st.sampled_from(["REGISTRY_ONLY", "ALLOW_ANY"])}),
            st.just(
                {
                    "mode": "ALLOW_ANY",
                    "egressProxy": {"host": "egress.default.svc.cluster.local", "port": {"number": 80}},
                }
            ),
        )
        egress = st.tuples(by_port, rest).map(lambda found: [*found[0], *found[1]])
        return fields(
            {"egress": egress},
            workloadSelector=st.fixed_dictionaries({"labels": LABELS}),
            ingress=st.lists(ingress, min_size=1, max_size=2, unique_by=lambda i: i["port"]["number"]),
            outboundTrafficPolicy=outbound,
            inboundConnectionPool=connection_pool(),
        )

    def selector(self) -> Strategy:
        return st.fixed_dictionaries({"matchLabels": LABELS})

    def peer_authentication(self) -> Strategy:
        mtls = fields(mode=st.sampled_from(["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]))
        by_port = st.dictionaries(self.ports.map(str), mtls, min_size=1, max_size=2)
        return st.one_of(fields(mtls=mtls), fields({"selector": self.selector()}, mtls=mtls, portLevelMtls=by_port))

    def attached(self) -> Strategy:
        target = st.fixed_dictionaries({"group": st.just(""), "kind": st.just("Service"), "name": self.short})
        return st.one_of(st.just({}), one_of(selector=self.selector(), targetRefs=some(target), targetRef=target))

    def request_authentication(self) -> Strategy:
        keys = st.one_of(
            st.just({}),
            one_of(jwks=st.just('{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}'), jwksUri=st.just("https://i.example/jwks")),
        )  # fmt: skip
        rule = joined(
            keys,
            fields(
                {"issuer": st.sampled_from(["https://i.example", "me@example.com"])},
                audiences=some(NAMES),
                fromHeaders=some(fields({"name": HEADERS}, prefix=st.just("Bearer "))),
                fromParams=some(NAMES),
                fromCookies=some(NAMES),
                outputPayloadToHeader=st.just("x-payload"),
                forwardOriginalToken=BOOLS,
                outputClaimToHeaders=some(
                    st.fixed_dictionaries({"header": st.just("x-sub"), "claim": st.just("sub")})
                ),
                timeout=DURATIONS,
                spaceDelimitedClaims=some(NAMES),
            ),
        )
        return joined(self.attached(), fields(jwtRules=some(rule)))

    def authorization_policy(self) -> Strategy:
        rules = st.lists(self.rule(), max_size=3)
        some_rules = some(self.rule(), 3)
        custom = some(fields(to=some(st.fixed_dictionaries({"operation": self.operation()}))))
        provider = st.just({"name": "authz"})
        return joined(
            self.attached(),
            st.one_of(
                fields(rules=rules, action=st.sampled_from(["ALLOW", "AUDIT"])),
                st.fixed_dictionaries({"rules": some_rules, "action": st.just("DENY")}),
                st.fixed_dictionaries({"rules": custom, "action": st.just("CUSTOM"), "provider": provider}),
            ),
        )

    def rule(self) -> Strategy:
        return fields(
            from_=some(st.fixed_dictionaries({"source": self.source()})),
            to=some(st.fixed_dictionaries({"operation": self.operation()})),
            when=some(self.condition()),
        )

    def source(self) -> Strategy:
        domains = st.sampled_from(["cluster.local", "*", "td*"])
        values = {
            "requestPrincipals": st.sampled_from(["*", "https://i.example/alice"]),
            "ipBlocks": CIDRS,
            "remoteIpBlocks": CIDRS,
            "trustDomains": domains,
        }
        identity = {"principals": self.principals, "namespaces": self.namespaces}

        def both(choices: dict[str, Strategy]) -> dict[str, Strategy]:
            with_not = {f"not{name[0].upper()}{name[1:]}": value for name, value in choices.items()}
            return {name: some(value) for name, value in {**choices, **with_not}.items()}

        return st.one_of(
            at_least_one(**both({**values, **identity})),
            at_least_one(**both({**values, "serviceAccounts": self.accounts})),
        )

    def operation(self) -> Strategy:
        values = {
            "hosts": st.sampled_from(["example.com", "*.example.com", "reviews"]),
            "ports": self.ports.map(str),
            "methods": st.sampled_from(["GET", "POST", "*"]),
            "paths": st.sampled_from(["/", "/reviews/*", "*/info", "/a/{*}/b", "/a/{**}", "*"]),
        }
        with_not = {f"not{name[0].upper()}{name[1:]}": value for name, value in values.items()}
        return at_least_one(**{name: some(value) for name, value in {**values, **with_not}.items()})

    def condition(self) -> Strategy:
        cases = {
            "request.headers[x-user]": WORDS,
            "source.ip": CIDRS,
            "remote.ip": CIDRS,
            "source.namespace": self.namespaces,
            "source.principal": self.principals,
            "source.serviceAccount": self.accounts,
            "source.trustDomain": st.just("cluster.local"),
            "request.auth.principal": st.just("*"),
            "request.auth.audiences": NAMES,
            "request.auth.presenter": NAMES,
            "request.auth.claims[groups]": WORDS,
            "request.auth.claims[a][b]": WORDS,
            "destination.ip": CIDRS,
            "destination.port": self.ports.map(str),
            "connection.sni": st.just("*.example.com"),
        }
        return st.one_of(
            *(
                joined(st.just({"key": k}), at_least_one(values=some(v), notValues=some(v)))
                for k, v in cases.items()
            )
        )

    def telemetry(self) -> Strategy:
        log = fields(
            match=fields(mode=st.sampled_from(["CLIENT", "SERVER", "CLIENT_AND_SERVER"])),
            providers=some(st.just({"name": "envoy"})),
            disabled=BOOLS,
            filter=st.just({"expression": "response.code >= 400"}),
        )
        return joined(self.attached(), fields(accessLogging=some(log)))


def capture_mode() -> Strategy:
    return st.sampled_from(["DEFAULT", "IPTABLES", "NONE"])


def connection_pool() -> Strategy:
    tcp = fields(
        maxConnections=NUMBERS,
        connectTimeout=DURATIONS,
        tcpKeepalive=fields(probes=NUMBERS, time=DURATIONS, interval=DURATIONS),
        maxConnectionDuration=DURATIONS,
        idleTimeout=st.one_of(st.just("0s"), DURATIONS),
    )
    limits = fields(
        http1MaxPendingRequests=NUMBERS,
        http2MaxRequests=NUMBERS,
        maxRequestsPerConnection=NUMBERS,
        maxRetries=NUMBERS,
        idleTimeout=DURATIONS,
        maxConcurrentStreams=NUMBERS,
    )
    protocol = st.one_of(
        fields(h2UpgradePolicy=st.sampled_from(["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"])),
        fields(useClientProtocol=BOOLS),
    )
    return at_least_one(tcp=tcp, http=joined(limits, protocol))


def outlier_detection() -> Strategy:
    local = st.one_of(
        st.just({}),
        fields({"splitExternalLocalOriginErrors": st.just(True)}, consecutiveLocalOriginFailures=NUMBERS),
    )
    return joined(
        local,
        fields(
            consecutiveErrors=NUMBERS,
            consecutiveGatewayErrors=st.integers(0, 10),
            consecutive5xxErrors=st.integers(0, 10),
            interval=DURATIONS,
            baseEjectionTime=DURATIONS,
            maxEjectionPercent=st.integers(0, 100),
            minHealthPercent=st.integers(0, 100),
        ),
    )


def client_tls() -> Strategy:
    names, sni = some(st.just("reviews.example.com")), st.just("reviews.example.com")
    files = {"clientCertificate": st.just("/etc/c.pem"), "privateKey": st.just("/etc/k.pem")}
    ca, crl = st.just("/etc/ca.pem"), st.just("/etc/crl.pem")
    return st.one_of(
        st.just({"mode": "DISABLE"}),
        fields({"mode": st.just("ISTIO_MUTUAL")}, sni=sni, subjectAltNames=names),
        fields({"mode": st.just("SIMPLE")}, sni=sni, subjectAltNames=names, caCertificates=ca, caCrl=crl),
        fields({"mode": st.just("SIMPLE"), "insecureSkipVerify": st.just(True)}, sni=sni),
        fields({"mode": st.just("SIMPLE"), "credentialName": NAMES}, sni=sni, subjectAltNames=names),
        fields({"mode": st.just("MUTUAL"), **files}, sni=sni, subjectAltNames=names, caCertificates=ca, caCrl=crl),
    )


def server_tls() -> Strategy:
    credential = one_of(credentialName=NAMES, credentialNames=some(NAMES))
    files = st.just({"serverCertificate": "/etc/s.pem", "privateKey": "/etc/k.pem"})
    certificates = st.just({"tlsCertificates": [{"serverCertificate": "/etc/s.pem", "privateKey": "/etc/k.pem"}]})
    options = fields(
        subjectAltNames=some(st.just("client.example.com")),
        minProtocolVersion=st.sampled_from(["TLS_AUTO", "TLSV1_2", "TLSV1_3"]),
        maxProtocolVersion=st.sampled_from(["TLS_AUTO", "TLSV1_3"]),
        cipherSuites=some(st.just("ECDHE-ECDSA-AES128-GCM-SHA256")),
        verifyCertificateSpki=some(st.just("NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A=")),
        verifyCertificateHash=some(st.just("df6ff72fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049d1a")),
        caCertCredentialName=NAMES,
    )
    simple = joined(st.just({"mode": "SIMPLE"}), st.one_of(credential, files, certificates), options)
    ca = joined(files, fields({"caCertificates": st.just("/etc/ca.pem")}, caCrl=st.just("/etc/crl.pem")))
    modes = st.sampled_from([{"mode": "MUTUAL"}, {"mode": "OPTIONAL_MUTUAL"}])
    mutual = joined(modes, st.one_of(credential, ca), options)
    return st.one_of(st.just({"mode": "PASSTHROUGH"}), st.just({"mode": "ISTIO_MUTUAL"}), simple, mutual)


def locality() -> Strategy:
    distribute = st.just([{"from": "region-1/zone-0/*", "to": {"region-1/zone-0/*": 80, "region-1/zone-1/*": 20}}])
    failover = st.just([{"from": "region-1", "to": "region-2"}])
    priority = st.just(["topology.kubernetes.io/region", "version=v1"])
    return joined(
        st.one_of(one_of(distribute=distribute, failover=failover, failoverPriority=priority)),
        fields(enabled=BOOLS),
    )
