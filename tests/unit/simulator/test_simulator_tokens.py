"""Tokens, verified as Envoy's jwt_authn filter verifies them."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtProvider
from security_cases import jwks, sign

from testbed.compiler.security.tokens import NOBODYS_KEYS
from testbed.compiler.simulator.tokens import Verdict, verify

NOW = 1_800_000_000.0


def provider(keys: str, **fields: object) -> JwtProvider:
    made = JwtProvider(issuer="one@example", **fields)
    made.local_jwks.inline_string = keys
    return made


@pytest.mark.parametrize(
    ("claims", "signed", "verdict"),
    [
        ({}, "good", Verdict.OK),
        ({"exp": -59}, "good", Verdict.OK),
        ({"exp": -61}, "good", Verdict.EXPIRED),
        ({"nbf": 61}, "good", Verdict.NOT_YET),
        ({"iss": "two"}, "good", Verdict.UNKNOWN_ISSUER),
        ({}, "stranger", Verdict.SIGNATURE),
        ({}, "none", Verdict.ALGORITHM),
        ({"aud": "bank"}, "good", Verdict.AUDIENCE),
        ({"aud": ["bank", "https://shop/"]}, "good", Verdict.OK),
    ],
)
def test_rsa(claims: dict, signed: str, verdict: Verdict) -> None:
    audiences = ["shop"] if "aud" in claims else []
    assert verify(provider(jwks(), audiences=audiences), sign(claims, NOW, signed), NOW)[0] is verdict


def test_elliptic_curves() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_numbers()
    keys = json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": _b64(point.x), "y": _b64(point.y)}]})
    parts = ({"alg": "ES256"}, {"iss": "one@example"})
    body = ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts)
    r, s = decode_dss_signature(key.sign(body.encode(), ec.ECDSA(hashes.SHA256())))
    proof = base64.urlsafe_b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).decode().rstrip("=")
    assert verify(provider(keys), f"{body}.{proof}", NOW)[0] is Verdict.OK
    assert verify(provider(NOBODYS_KEYS), f"{body}.{proof}", NOW)[0] is not Verdict.OK


def test_nobodys_key_is_a_point_of_its_curve() -> None:
    (key,) = json.loads(NOBODYS_KEYS)["keys"]
    x, y = (int.from_bytes(base64.urlsafe_b64decode(key[c] + "="), "big") for c in "xy")
    ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def _b64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).decode().rstrip("=")
