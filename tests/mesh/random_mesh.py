"""Random resources over a small mesh, and random requests to it; the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from security_cases import jwks, sign

INVENTORY = """
id: random
nodes: [{name: one}]
services:
  - {name: web, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 90}]}
  - {name: api, namespace: other, ports: [{name: http, port: 80, targetPort: 8080}]}
workloads:
  - {service: web, version: v1, node: one, serviceAccount: web}
  - {service: web, version: v2, node: one, serviceAccount: web}
  - {service: api, namespace: other, version: v1, node: one, serviceAccount: api}
  - {service: api, namespace: other, version: v2, node: one, serviceAccount: api}
  - {service: alpha, node: one, serviceAccount: alpha, program: none}
  - {service: beta, namespace: other, node: one, serviceAccount: beta, program: none}
gateways:
  - {name: front, node: one}
"""

HOSTS = {"web": "web.default.svc.cluster.local", "api": "api.other.svc.cluster.local"}
NAMESPACES = {"web": "default", "api": "other"}
PATHS = ("/", "/a", "/a/b", "/A", "/a/b/c", "/ab", "/admin", "/x/7/y", "/a/../admin", "/a?k=1", "/b?k=2&j", "/a/")
HEADERS = {"x-user": ("joe", "jane", "joan", ""), "x-env": ("test", "prod"), "cookie": ("a=b; user=joe", "c=d")}
METHODS = ("GET", "GET", "GET", "POST", "DELETE")


@dataclass(frozen=True)
class Job:
    """A request of a caller."""

    caller: str
    url: str
    method: str
    headers: dict[str, str]


class Random:
    """Draws resources and requests."""

    def __init__(self, seed: int, now: float) -> None:
        self.random = random.Random(seed)
        self.now = now

    # resources

    def manifests(self) -> str:
        """A random configuration of the whole mesh."""
        documents = []
        for service in HOSTS:
            if self._chance(0.8):
                documents.append(self._virtual_service(service))
            if self._chance(0.8):
                documents.append(self._destination_rule(service))
        documents += [self._gateway(), self._front()]
        for name in ("one", "two"):
            if self._chance(0.4):
                documents.append(self._peers(name))
        if self._chance(0.6):
            documents.append(self._tokens())
        documents += [self._policy(f"policy-{n}") for n in range(self.random.randint(0, 3))]
        return yaml.safe_dump_all(documents)

    def _virtual_service(self, service: str) -> dict[str, Any]:
        http = [self._rule(service) for _ in range(self.random.randint(1, 4))]
        return _manifest(
            "networking", "VirtualService", service, NAMESPACES[service], {"hosts": [HOSTS[service]], "http": http}
        )

    def _front(self) -> dict[str, Any]:
        http = [self._rule(self._one(list(HOSTS))) for _ in range(self.random.randint(1, 3))]
        spec = {"hosts": [self._one(["*", "shop.example", "*.example"])], "gateways": ["front"], "http": http}
        return _manifest("networking", "VirtualService", "front", "istio-system", spec)

    def _gateway(self) -> dict[str, Any]:
        server = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
        spec = {"selector": {"istio": "ingressgateway"}, "servers": [server]}
        return _manifest("networking", "Gateway", "front", "istio-system", spec)

    def _rule(self, service: str) -> dict[str, Any]:
        rule: dict[str, Any] = {}
        if self._chance(0.75):
            rule["match"] = [self._match() for _ in range(self.random.randint(1, 2))]
        ending = self.random.random()
        if ending < 0.1:
            rule["redirect"] = {"uri": "/elsewhere", "redirectCode": self._one([301, 302, 307])}
            return rule
        if ending < 0.2:
            rule["directResponse"] = {"status": self._one([200, 204, 418, 503])}
            return rule
        rule["route"] = self._destinations(service)
        if self._chance(0.2):
            regex = {"uriRegexRewrite": {"match": "^/([a-z]+)(/.*)?$", "rewrite": "/re/\\1"}}
            rule["rewrite"] = self._one([{"uri": "/admin"}, {"uri": "/"}, {"authority": "other.example"}, regex])
        if self._chance(0.15):
            origin = self._one(
                [{"exact": "https://shop.example"}, {"prefix": "https://"}, {"regex": ".*[.]example"}]
            )
            rule["corsPolicy"] = {"allowOrigins": [origin], "allowMethods": ["GET", "POST"]}
            if self._chance(0.5):
                rule["corsPolicy"]["unmatchedPreflights"] = self._one(["FORWARD", "IGNORE"])
        if self._chance(0.1):
            rule["retries"] = self._one([{"attempts": 0}, {"attempts": 3, "retryOn": "gateway-error"}])
        if self._chance(0.1):
            rule["timeout"] = "7s"
        if self._chance(0.2):
            abort = {"httpStatus": self._one([500, 429]), "percentage": {"value": self._one([0, 50, 100])}}
            rule["fault"] = {"abort": abort}
        if self._chance(0.2):
            rule["headers"] = {"request": self._one([{"set": {"x-env": "prod"}}, {"remove": ["x-user"]}])}
        return rule

    def _destinations(self, service: str) -> list[dict[str, Any]]:
        target = service if self._chance(0.8) else self._one(list(HOSTS))
        destination: dict[str, Any] = {"host": HOSTS[target], "port": {"number": 80}}
        if self._chance(0.4):
            return [{"destination": destination}]
        split = self._one([100, 50, 10])
        parts = [("v1", split), ("v2", 100 - split)]
        return [{"destination": {**destination, "subset": s}, "weight": w} for s, w in parts]

    def _match(self) -> dict[str, Any]:
        match: dict[str, Any] = {}
        if self._chance(0.7):
            uri = self._one(
                [{"exact": "/a"}, {"prefix": "/a"}, {"prefix": "/a/"}, {"regex": "/x/[0-9]+/.*"}, {"prefix": "/"}]
            )
            match["uri"] = uri
            if self._chance(0.3):
                match["ignoreUriCase"] = True
        if self._chance(0.4):
            match["headers"] = {"x-user": self._one([{"exact": "joe"}, {"prefix": "jo"}, {"regex": "j.*e"}, {}])}
        if self._chance(0.15):
            match["withoutHeaders"] = {"x-env": self._one([{"exact": "test"}, {}])}
        if self._chance(0.15):
            match["queryParams"] = {"k": self._one([{"exact": "1"}, {"regex": "[12]"}])}
        if self._chance(0.1):
            match["authority"] = self._one([{"prefix": "web"}, {"exact": "api.other"}, {"regex": ".*[.]example"}])
        if self._chance(0.1):
            match["sourceLabels"] = {"app": self._one(["alpha", "beta"])}
        if self._chance(0.1):
            match["sourceNamespace"] = self._one(["default", "other"])
        if self._chance(0.1):
            match["port"] = self._one([80, 81])
        if self._chance(0.15):
            match["method"] = {"exact": self._one(["GET", "POST"])}
        return match or {"uri": {"prefix": "/"}}

    def _destination_rule(self, service: str) -> dict[str, Any]:
        subsets = [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")]
        if self._chance(0.15):
            subsets = subsets[:1]
        spec: dict[str, Any] = {"host": HOSTS[service], "subsets": subsets}
        mode = self._one(["", "", "", "DISABLE", "ISTIO_MUTUAL"])
        policy: dict[str, Any] = {"tls": {"mode": mode}} if mode else {}
        if self._chance(0.3):
            policy["loadBalancer"] = {"simple": self._one(["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"])}
        if policy:
            spec["trafficPolicy"] = policy
        return _manifest("networking", "DestinationRule", service, NAMESPACES[service], spec)

    def _peers(self, name: str) -> dict[str, Any]:
        namespace = self._one(["default", "other", "istio-system"])
        spec: dict[str, Any] = {"mtls": {"mode": self._one(["STRICT", "STRICT", "PERMISSIVE", "DISABLE", "UNSET"])}}
        if namespace != "istio-system" and self._chance(0.5):
            app = "web" if namespace == "default" else "api"
            spec["selector"] = {"matchLabels": {"app": app, **self._one([{}, {"version": "v1"}])}}
            if self._chance(0.5):
                spec["portLevelMtls"] = {
                    self._one([8080, 90]): {"mode": self._one(["STRICT", "DISABLE", "PERMISSIVE"])}
                }
        return _manifest("security", "PeerAuthentication", name, namespace, spec)

    def _tokens(self) -> dict[str, Any]:
        rules = [
            {"issuer": i, "jwks": jwks()} for i in self._one([["one@example"], ["one@example", "two@example"]])
        ]
        if self._chance(0.3):
            rules[0]["audiences"] = ["shop"]
        if self._chance(0.3):
            rules[0]["forwardOriginalToken"] = True
        return _manifest(
            "security",
            "RequestAuthentication",
            "tokens",
            self._one(["default", "istio-system"]),
            {"jwtRules": rules},
        )

    def _policy(self, name: str) -> dict[str, Any]:
        spec: dict[str, Any] = {"action": self._one(["ALLOW", "ALLOW", "DENY", "AUDIT"])}
        spec["rules"] = [self._policy_rule() for _ in range(self.random.randint(1, 3))]
        if self._chance(0.1) and spec["action"] == "ALLOW":
            del spec["rules"]
        if self._chance(0.5):
            spec["selector"] = {
                "matchLabels": self._one([{"app": "web"}, {"version": "v1"}, {"istio": "ingressgateway"}])
            }
        return _manifest(
            "security", "AuthorizationPolicy", name, self._one(["default", "other", "istio-system"]), spec
        )

    def _policy_rule(self) -> dict[str, Any]:
        rule: dict[str, Any] = {}
        if self._chance(0.5):
            sources: Sequence[dict[str, Any]] = (
                {"principals": ["cluster.local/ns/default/sa/alpha"]},
                {"notPrincipals": ["*/sa/beta"]},
                {"namespaces": ["default", "istio-system"]},
                {"notNamespaces": ["oth*"]},
                {"requestPrincipals": ["one@example/*"]},
                {"notRequestPrincipals": ["*"]},
                {"serviceAccounts": ["default/alpha"]},
                {"remoteIpBlocks": ["198.51.100.0/24"]},
            )
            rule["from"] = [{"source": self._one(sources)} for _ in range(self.random.randint(1, 2))]
        if self._chance(0.6):
            operations: Sequence[dict[str, Any]] = (
                {"paths": ["/a*"]},
                {"paths": ["/admin", "*/b"]},
                {"notPaths": ["/admin"]},
                {"paths": ["/x/{*}/y"]},
                {"methods": ["GET"]},
                {"notMethods": ["DELETE"]},
                {"hosts": ["web*"]},
                {"notHosts": ["*.example"]},
                {"ports": ["8080"]},
                {"ports": ["90"]},
            )
            rule["to"] = [{"operation": self._one(operations)} for _ in range(self.random.randint(1, 2))]
        if self._chance(0.3):
            conditions: Sequence[dict[str, Any]] = (
                {"key": "request.headers[x-user]", "values": ["jo*"]},
                {"key": "request.headers[x-env]", "notValues": ["test"]},
                {"key": "request.auth.claims[group]", "values": ["admins"]},
                {"key": "source.namespace", "values": ["default"]},
                {"key": "destination.port", "values": ["8080", "80"]},
            )
            rule["when"] = [self._one(conditions)]
        return rule

    # requests

    def job(self) -> Job:
        """A random request."""
        caller = self._one(["alpha-v1", "alpha-v1", "beta-v1", "front"])
        headers = {n: self._one(v) for n, v in HEADERS.items() if self._chance(0.4)}
        if caller == "front":
            host = self._one(["shop.example", "a.example", "elsewhere"])
            base = f"http://{host}"
        else:
            host = self._one(["web.default", HOSTS["web"], "api.other", "api.other"])
            base = f"http://{host}"
            if self._chance(0.1):
                return Job(caller, "tcp://web.default:90", "GET", {})
        if self._chance(0.35):
            headers["authorization"] = f"Bearer {self._token()}"
        if self._chance(0.2):
            headers["x-forwarded-for"] = self._one(["198.51.100.7", "203.0.113.9", "198.51.100.7, 203.0.113.9"])
        if self._chance(0.1):
            headers["origin"] = self._one(["https://shop.example", "http://else"])
            headers["access-control-request-method"] = "GET"
            return Job(caller, base + self._one(PATHS), "OPTIONS", headers)
        return Job(caller, base + self._one(PATHS), self._one(METHODS), headers)

    def _token(self) -> str:
        claims: dict[str, Any] = {"iss": self._one(["one@example", "one@example", "two@example", "three"])}
        if self._chance(0.5):
            claims["aud"] = self._one(["shop", ["shop", "bank"], "bank"])
        if self._chance(0.5):
            claims["group"] = self._one(["admins", ["users", "admins"], "users"])
        if self._chance(0.1):
            claims["exp"] = -600
        return sign(claims, self.now, self._one(["good", "good", "good", "good", "stranger", "none"]))

    def _one(self, values: Sequence[Any]) -> Any:
        return self.random.choice(values)

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability


def _manifest(group: str, kind: str, name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    version = "v1"
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": f"{group}.istio.io/{version}", "kind": kind, "metadata": metadata, "spec": spec}
