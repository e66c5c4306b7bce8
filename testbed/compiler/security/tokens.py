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


_MEMBERS = {"RSA": ("n", "e"), "EC": ("x", "y"), "oct": ("k",), "OKP": ("x",)}
_CURVES = {"EC": ("P-256", "P-384", "P-521", None), "OKP": ("Ed25519",)}


def is_usable(keys: str) -> bool:
    """Whether Envoy takes the text as a key set.

    It rejects a whole listener for one key that it can't read, and with it every other change of the mesh;
    earlier releases, and so Istio, refused that issuer's tokens, which is what the caller does with a "no".
    """
    try:
        found = json.loads(keys)["keys"]
        return bool(found) and all(_is_usable_key(key) for key in found)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_usable_key(key: Mapping[str, str]) -> bool:
    kind = key["kty"]
    parts = [base64.b64decode(key[m] + "=" * (-len(key[m]) % 4), b"-_", validate=True) for m in _MEMBERS[kind]]
    return all(parts) and (kind not in _CURVES or key.get("crv") in _CURVES[kind])


_ADDRESS = re.compile(r"(https?)://(\[[^\]]+\]|[^/?#:]+)(?::(\d+))?")


def _host_and_port(uri: str) -> tuple[str, int]:
    found = _ADDRESS.match(uri)
    if found is None:
        return "", 0
    scheme, host, port = found.groups()
    return host.lower(), int(port or (443 if scheme == "https" else 80))
