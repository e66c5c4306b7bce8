"""RequestAuthentication as Envoy's jwt_authn filter.

A request without a token passes; a token that is given must be valid.  With several rules Envoy is asked
for one valid provider, or else that none of the tokens that are present is bad: rules that read the same
header could never all hold at once (istiod: pilot/pkg/security/authn/policy_applier.go).

Keys behind a ``jwksUri`` are fetched by istiod and written into the configuration.  No process of ours
stays alive to do so, hence: text that was fetched when the resources were applied (:data:`Jwks`) is written
in; else, where the mesh knows the host (a service or a ServiceEntry), Envoy fetches the keys itself through
that cluster, as istiod's ``PILOT_JWT_ENABLE_REMOTE_JWKS=hybrid`` has it; else a key stands there whose
private half nobody has, so that every token of that issuer is refused, as when istiod can't fetch.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.http_uri_pb2 import HttpUri
from envoy.config.route.v3.route_components_pb2 import RouteMatch
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt
from google.protobuf.empty_pb2 import Empty

from testbed.compiler.protobuf import duration
from testbed.compiler.security.matching import JWT_PAYLOAD
from testbed.compiler.security.providers import ClusterLookup
from testbed.resources.authentication import JWTRule

Jwks = Mapping[str, str]
"""Key sets fetched when the resources were applied: by ``jwksUri``, or by issuer for a rule with neither
``jwks`` nor ``jwksUri`` (OpenID discovery), the text of the JSON Web Key Set."""

FETCH_TIMEOUT = 5.0
CACHE_SECONDS = 300
SPACE_DELIMITED = ("permission", "scope")
"""Claims whose text is a list divided by spaces, always (RFC 8693 section 4.2 has ``scope`` so)."""

NOBODYS_KEYS = (
    '{"keys":[{"kty":"EC","crv":"P-256","kid":"none","alg":"ES256",'
    '"x":"a1YcLoFPc3sHwgml-QmrmpkK1LWy50SF8e1GJzSOXd8","y":"nV4yF7WnqjsnfYAYNSQQOhrJEJUL-tFHYkYHYgIWUU4"}]}'
)
"""A public key whose private half was thrown away when this line was written."""


def token_filter(
    rules: Sequence[JWTRule], *, gateway: bool, jwks: Jwks, cluster: ClusterLookup
) -> jwt.JwtAuthentication | None:
    """The filter that enforces all ``rules``; none without rules.

    ``gateway``: claims may decide the route there, so a verified token lets the route be chosen anew.
    """
    if not rules:
        return None
    out = jwt.JwtAuthentication(bypass_cors_preflight=True)
    names = []
    for number, rule in enumerate(sorted(rules, key=lambda r: r.issuer)):
        names.append(f"origins-{number}")
        out.providers[names[-1]].CopyFrom(_provider(rule, gateway, jwks, cluster))
    out.rules.add(match=RouteMatch(prefix="/"), requires=_requirement(names))
    return out


def _requirement(names: Sequence[str]) -> jwt.JwtRequirement:
    missing = jwt.JwtRequirement(allow_missing=Empty())
    single = [jwt.JwtRequirement(provider_name=n) for n in names]
    each = [jwt.JwtRequirement(requires_any=jwt.JwtRequirementOrList(requirements=[s, missing])) for s in single]
    if len(each) == 1:
        return each[0]
    none_bad = jwt.JwtRequirement(requires_all=jwt.JwtRequirementAndList(requirements=each))
    return jwt.JwtRequirement(requires_any=jwt.JwtRequirementOrList(requirements=[*single, none_bad]))


def _provider(rule: JWTRule, gateway: bool, jwks: Jwks, cluster: ClusterLookup) -> jwt.JwtProvider:
    out = jwt.JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward_original_token,
        forward_payload_header=rule.output_payload_to_header,
        payload_in_metadata=JWT_PAYLOAD,
        from_params=rule.from_params,
        from_cookies=rule.from_cookies,
        clear_route_cache=gateway,
    )
    out.normalize_payload_in_metadata.space_delimited_claims.extend(
        sorted({*SPACE_DELIMITED, *rule.space_delimited_claims})
    )
    for header in rule.from_headers:
        out.from_headers.add(name=header.name, value_prefix=header.prefix)
    for copy in rule.output_claim_to_headers:
        out.claim_to_headers.add(header_name=copy.header, claim_name=copy.claim)
    text = rule.jwks or jwks.get(rule.jwks_uri or rule.issuer, "")
    name = None if text or not rule.jwks_uri else cluster(*_host_and_port(rule.jwks_uri))
    if name is None:
        out.local_jwks.CopyFrom(DataSource(inline_string=text if is_usable(text) else NOBODYS_KEYS))
    else:
        timeout = duration(rule.timeout or FETCH_TIMEOUT)
        out.remote_jwks.http_uri.CopyFrom(HttpUri(uri=rule.jwks_uri, cluster=name, timeout=timeout))
        out.remote_jwks.cache_duration.seconds = CACHE_SECONDS
    return out


_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_ALGORITHMS = {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("EdDSA",), "oct": ("HS",)}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*={0,2}")


def is_usable(keys: str) -> bool:
    """Whether Envoy takes the text as a key set: at least one key in it must be one that it can read.

    Otherwise it rejects the whole listener, and with it every other change of the mesh; what the caller does
    with a "no", to refuse that issuer's tokens, is what earlier releases of Envoy did.
    """
    try:
        return any(_is_usable_key(key) for key in json.loads(keys)["keys"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_usable_key(key: Mapping[str, str]) -> bool:
    try:
        if (given := key.get("alg")) and not given.startswith(_ALGORITHMS[key["kty"]]):
            return False
        match key["kty"]:
            case "RSA":
                return bool(_decoded(key["n"]) and _decoded(key["e"]))
            case "EC":
                x, y = (int.from_bytes(_decoded(key[name]), "big") for name in ("x", "y"))
                ec.EllipticCurvePublicNumbers(x, y, _CURVES[key["crv"]]).public_key()
                return True
            case "OKP":
                return key["crv"] == "Ed25519" and len(_decoded(key["x"])) == 32
            case "oct":
                return bool(_decoded(key["k"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    return False


def _decoded(text: str) -> bytes:
    if _BASE64URL.fullmatch(text) is None:
        raise ValueError("no base64url")
    return base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))


_ADDRESS = re.compile(r"(https?)://(\[[^\]]+\]|[^/?#:]+)(?::(\d+))?")


def _host_and_port(uri: str) -> tuple[str, int]:
    found = _ADDRESS.match(uri)
    if found is None:
        return "", 0
    scheme, host, port = found.groups()
    return host.lower(), int(port or (443 if scheme == "https" else 80))
