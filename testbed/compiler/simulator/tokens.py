"""The jwt_authn filter, evaluated: where tokens are looked for, when one is valid, what it leaves behind.

Statuses are Envoy's: 401 for a token that is missing where one is required, malformed, expired, badly
signed or of an unknown issuer, 403 for one that is meant for another audience.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from testbed.compiler.simulator.request import Http

CLOCK_SKEW = 60
"""Seconds of grace for ``exp`` and ``nbf``, Envoy's default."""

_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


class Verdict(Enum):
    """What became of a token (or of the lack of one)."""

    OK = ""
    MISSING = "Jwt is missing"
    UNKNOWN_ISSUER = "Jwt issuer is not configured"
    MALFORMED = "Jwt is not in the form of Header.Payload.Signature"
    ALGORITHM = "Jwt header [alg] is not supported"
    EXPIRED = "Jwt is expired"
    NOT_YET = "Jwt not yet valid"
    AUDIENCE = "Audiences in Jwt are not allowed"
    NO_KEY = "Jwks doesn't have key to match kid or alg from Jwt"
    SIGNATURE = "Jwt verification fails"
    KEYS_UNKNOWN = "the keys are fetched by Envoy and not known here"


@dataclass(frozen=True)
class Location:
    """Where a token stood: a header, a query parameter or a cookie."""

    kind: str
    name: str
    token: str


@dataclass(frozen=True)
class TokenResult:
    """What the filter made of a request."""

    verdict: Verdict
    claims: Mapping[str, Any]
    """Of the verified token, as later filters see them; empty without one."""
    http: Http

    @property
    def status(self) -> int:
        """The answer to the caller when the verdict is not OK."""
        return 403 if self.verdict is Verdict.AUDIENCE else 401


def authenticate(config: Any, http: Http, now: float) -> TokenResult:
    """Run a ``JwtAuthentication`` filter on a request at ``now`` (seconds since 1970)."""
    if config.bypass_cors_preflight and http.is_cors_preflight:
        return TokenResult(Verdict.OK, {}, http)
    for rule in config.rules:
        if http.path.startswith(rule.match.prefix):
            return _Run(config, http, now).check(rule.requires)
    return TokenResult(Verdict.OK, {}, http)


class _Run:
    def __init__(self, config: Any, http: Http, now: float) -> None:
        self.config, self.http, self.now = config, http, now
        self.claims: dict[str, Any] = {}

    def check(self, requirement: Any) -> TokenResult:
        verdict = self._required(requirement)
        return TokenResult(verdict, self.claims, self.http)

    def _required(self, requirement: Any) -> Verdict:
        match requirement.WhichOneof("requires_type"):
            case "provider_name":
                return self._provider(self.config.providers[requirement.provider_name])
            case "requires_all":
                for part in requirement.requires_all.requirements:
                    verdict = self._required(part)
                    if verdict is not Verdict.OK:
                        return verdict
                return Verdict.OK
            case "requires_any":
                return self._any(requirement.requires_any.requirements)
        return Verdict.OK

    def _any(self, requirements: Any) -> Verdict:
        worst = Verdict.MISSING
        may_miss = any(r.WhichOneof("requires_type") == "allow_missing" for r in requirements)
        for part in requirements:
            if part.WhichOneof("requires_type") == "allow_missing":
                continue
            verdict = self._required(part)
            if verdict is Verdict.OK:
                return verdict
            # a bad token outweighs one of another issuer, and that outweighs none at all
            if verdict is not Verdict.MISSING and (
                verdict is not Verdict.UNKNOWN_ISSUER or worst is Verdict.MISSING
            ):
                worst = verdict
        return Verdict.OK if worst is Verdict.MISSING and may_miss else worst

    def _provider(self, provider: Any) -> Verdict:
        verdict = Verdict.MISSING
        for location in _locations(provider, self.http):
            verdict, claims = verify(provider, location.token, self.now)
            if verdict is not Verdict.OK:
                return verdict
            self.claims[provider.payload_in_metadata] = _normalized(provider, claims)
            self.http = _after(provider, location, claims, self.http)
        return verdict


def _locations(provider: Any, http: Http) -> Iterator[Location]:
    headers = [(h.name.lower(), h.value_prefix) for h in provider.from_headers]
    parameters = list(provider.from_params)
    if not headers and not parameters and not provider.from_cookies:
        headers, parameters = [("authorization", "Bearer ")], ["access_token"]
    for name, prefix in headers:
        found = http.headers.get(name)
        if found is not None and prefix in found:
            # what follows the prefix, wherever it stands, up to a character that no token has
            rest = found.partition(prefix)[2] if prefix else found
            yield Location("header", name, _token_characters(rest.lstrip()))
    for name in parameters:
        if values := http.parameters.get(name):
            yield Location("parameter", name, values[0])
    cookies = http.cookies
    for name in provider.from_cookies:
        if name in cookies:
            yield Location("cookie", name, cookies[name])


def _token_characters(text: str) -> str:
    for position, character in enumerate(text):
        if not (character.isascii() and (character.isalnum() or character in "-_=.")):
            return text[:position]
    return text


def verify(provider: Any, token: str, now: float) -> tuple[Verdict, dict[str, Any]]:  # noqa: PLR0911
    """Check one token against a provider: its form, issuer, times, audiences and signature, in Envoy's order."""
    try:
        head, body, signature = token.split(".")
        header, claims = json.loads(_decoded(head)), json.loads(_decoded(body))
        signed, proof = f"{head}.{body}".encode(), _decoded(signature)
        algorithm = str(header["alg"])
    except (ValueError, KeyError, TypeError):
        return Verdict.MALFORMED, {}
    if algorithm[:2] not in ("RS", "PS", "ES", "HS") and algorithm != "EdDSA":
        return Verdict.ALGORITHM, {}
    if provider.issuer and claims.get("iss", "") != provider.issuer:
        return Verdict.UNKNOWN_ISSUER, {}
    if now < claims.get("nbf", 0) - CLOCK_SKEW:
        return Verdict.NOT_YET, {}
    if claims.get("exp") and now > claims["exp"] + CLOCK_SKEW:
        return Verdict.EXPIRED, {}
    audiences = claims.get("aud", [])
    audiences = [audiences] if isinstance(audiences, str) else audiences
    if provider.audiences and not {_audience(a) for a in audiences} & {_audience(a) for a in provider.audiences}:
        return Verdict.AUDIENCE, {}
    if provider.WhichOneof("jwks_source_specifier") != "local_jwks":
        return Verdict.KEYS_UNKNOWN, {}
    return _signed(provider, header, signed, proof), claims


def _signed(provider: Any, header: Mapping[str, Any], signed: bytes, proof: bytes) -> Verdict:
    try:
        keys = json.loads(provider.local_jwks.inline_string)["keys"]
    except (ValueError, KeyError):
        return Verdict.NO_KEY
    kid, algorithm = header.get("kid"), header["alg"]
    verdict = Verdict.NO_KEY
    for key in keys:
        # a token without a key id, and a key without one, are tried against all
        if (kid and key.get("kid") and key["kid"] != kid) or (key.get("alg") and key["alg"] != algorithm):
            continue
        verdict = Verdict.SIGNATURE
        if _holds(key, algorithm, signed, proof):
            return Verdict.OK
    return verdict


def _holds(key: Mapping[str, Any], algorithm: str, signed: bytes, proof: bytes) -> bool:
    try:
        _check(key, algorithm, signed, proof)
    except (InvalidSignature, ValueError, KeyError, TypeError):
        return False
    return True


def _check(key: Mapping[str, Any], algorithm: str, signed: bytes, proof: bytes) -> None:
    family, digest = algorithm[:2], _HASHES.get(algorithm[2:])
    if key["kty"] == "OKP" and algorithm == "EdDSA":
        ed25519.Ed25519PublicKey.from_public_bytes(_decoded(key["x"])).verify(proof, signed)
    elif digest is None:
        raise InvalidSignature
    elif key["kty"] == "RSA" and family in ("RS", "PS"):
        public = rsa.RSAPublicNumbers(_number(key["e"]), _number(key["n"])).public_key()
        scheme = padding.PSS(padding.MGF1(digest), digest.digest_size) if family == "PS" else padding.PKCS1v15()
        public.verify(proof, signed, scheme, digest)
    elif key["kty"] == "EC" and family == "ES":
        curve = _CURVES[key["crv"]]
        half = (curve.key_size + 7) // 8
        if len(proof) != 2 * half:
            raise InvalidSignature
        pair = int.from_bytes(proof[:half], "big"), int.from_bytes(proof[half:], "big")
        point = ec.EllipticCurvePublicNumbers(_number(key["x"]), _number(key["y"]), curve).public_key()
        point.verify(encode_dss_signature(*pair), signed, ec.ECDSA(digest))
    elif key["kty"] == "oct" and family == "HS":
        mac = hmac.HMAC(_decoded(key["k"]), digest)
        mac.update(signed)
        mac.verify(proof)
    else:
        raise InvalidSignature


def _audience(text: str) -> str:
    # Envoy compares audiences without their scheme and without a slash at the end
    return text.removeprefix("https://").removeprefix("http://").removesuffix("/")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _number(text: str) -> int:
    return int.from_bytes(_decoded(text), "big")


def _normalized(provider: Any, claims: Mapping[str, Any]) -> dict[str, Any]:
    spaced = provider.normalize_payload_in_metadata.space_delimited_claims
    return {k: v.split(" ") if k in spaced and isinstance(v, str) else v for k, v in claims.items()}


def _after(provider: Any, location: Location, claims: Mapping[str, Any], http: Http) -> Http:
    if provider.forward_payload_header:
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        http = http.with_header(provider.forward_payload_header, payload)
    for copy in provider.claim_to_headers:
        found: Any = claims
        for part in copy.claim_name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            text = found if isinstance(found, str) else json.dumps(found)
            http = http.with_header(copy.header_name, text)
    if not provider.forward and location.kind == "header":
        http = http.without_header(location.name)
    return http
