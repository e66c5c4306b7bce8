"""The cases of tests/golden/security: read, filled in, and their tokens signed.

One policy per server workload: a mesh with many servers takes many cases at once.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

FOLDER = Path(__file__).parent / "golden/security"
SERVERS = 4


def inventory() -> str:
    """Servers s0, s1, ... of which each takes one case, and the callers alpha and beta."""
    http = "{name: http, port: 80, targetPort: 8080}, {name: http-b, port: 81, targetPort: 8081}"
    ports = f"[{http}, {{name: tcp, port: 90}}]"
    services = "".join(f"  - {{name: s{i}, ports: {ports}}}\n" for i in range(SERVERS))
    servers = "".join(f"  - {{service: s{i}, node: one, serviceAccount: server}}\n" for i in range(SERVERS))
    return f"""
id: security
nodes: [{{name: one}}]
services:
{services}workloads:
{servers}  - {{service: alpha, node: one, serviceAccount: alpha, program: none}}
  - {{service: beta, namespace: other, node: one, serviceAccount: beta, program: none}}
"""


@dataclass(frozen=True)
class Ask:
    """A request and what it must be answered with."""

    caller: str
    path: str = "/"
    method: str = "GET"
    port: int = 80
    headers: Mapping[str, str] = field(default_factory=dict)
    expect: int = 200
    present: Mapping[str, str | None] = field(default_factory=dict)
    """Headers that the program must see, with their values if it matters."""
    absent: Sequence[str] = ()


@dataclass(frozen=True)
class Case:
    """Resources for one server, and the requests to it."""

    name: str
    rules: Sequence[Mapping[str, Any]]
    policies: Sequence[Mapping[str, Any]]
    annotations: Mapping[str, str]
    asks: Sequence[Ask]

    def manifests(self, server: str, addresses: Mapping[str, str]) -> str:
        """Its resources, for the server of that name."""
        selector = {"selector": {"matchLabels": {"app": server}}}
        documents = [
            {
                "apiVersion": "security.istio.io/v1",
                "kind": kind,
                "metadata": {
                    "name": f"{server}-{n}",
                    "namespace": "default",
                    "annotations": dict(self.annotations),
                },
                "spec": {**spec, **selector},
            }
            for kind, specs in (
                ("AuthorizationPolicy", self.policies),
                ("RequestAuthentication", [{"jwtRules": list(self.rules)}] if self.rules else []),
            )
            for n, spec in enumerate(specs)
        ]
        text = yaml.safe_dump_all(documents)
        marks = {**{f"@{n}@": a for n, a in addresses.items()}, "@self@": addresses[server]}
        for mark, value in marks.items():
            text = text.replace(mark, value)
        return text.replace("'@jwks@'", json.dumps(jwks()))


def cases(file: str, now: float) -> Iterator[Case]:
    """The cases of a file; tokens are signed for the time ``now``."""
    for case in yaml.safe_load((FOLDER / file).read_text()):
        asks = [_ask(ask, now) for ask in case["requests"]]
        yield Case(case["name"], case.get("rules", ()), case.get("policies", ()), case.get("annotations", {}), asks)


def batches(found: Sequence[Case]) -> Iterator[Mapping[str, Case]]:
    """As many cases at once as there are servers, each with its server."""
    for start in range(0, len(found), SERVERS):
        yield {f"s{i}": case for i, case in enumerate(found[start : start + SERVERS])}


def _ask(ask: Mapping[str, Any], now: float) -> Ask:
    headers = dict(ask.get("headers", {}))
    path = ask.get("path", "/")
    if "token" in ask:
        token = sign(ask["token"], now, ask.get("signed", "good"))
        placed = ask.get("placed", "authorization: Bearer ")
        if placed.startswith("?"):
            path += placed + token
        else:
            name, _, prefix = placed.partition(": ")
            headers[name] = prefix + token
    present = ask.get("with", {})
    if not isinstance(present, dict):
        present = dict.fromkeys(present)
    return Ask(
        ask["from"],
        path,
        ask.get("method", "GET"),
        ask.get("port", 80),
        headers,
        ask["expect"],
        present,
        ask.get("without", ()),
    )


@cache
def _key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def jwks() -> str:
    """The key set that holds the good key, and only it."""
    numbers = _key("good").public_key().public_numbers()
    n, e = (_base64(v.to_bytes((v.bit_length() + 7) // 8, "big")) for v in (numbers.n, numbers.e))
    return json.dumps({"keys": [{"kty": "RSA", "alg": "RS256", "kid": "good", "n": n, "e": e}]})


def sign(claims: Mapping[str, Any], now: float, signed: str = "good") -> str:
    """A token.  ``exp`` and ``nbf`` are seconds from now; ``signed``: good, stranger (another key), none."""
    full = {"iss": "one@example", "sub": "joe", "exp": 3600, **claims}
    for name in ("exp", "nbf"):
        if name in full:
            full[name] = int(now) + full[name]
    header = {"alg": "none"} if signed == "none" else {"alg": "RS256", "kid": "good"}
    body = ".".join(_base64(json.dumps(part).encode()) for part in (header, full))
    if signed == "none":
        return f"{body}."
    return f"{body}.{_base64(_key(signed).sign(body.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
