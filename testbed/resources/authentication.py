"""PeerAuthentication and RequestAuthentication: which callers and which tokens a workload takes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from testbed.resources.values import Bool, Duration, LabelSelector, Message, PolicyTargetReference


class MutualTLSMode(StrEnum):
    """What a workload accepts; UNSET takes the namespace's, then the mesh's, then PERMISSIVE."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class MutualTLS(Message):
    """Mutual TLS settings."""

    mode: MutualTLSMode = MutualTLSMode.UNSET


PortNumber = Annotated[int, Field(ge=1, le=65535)]
"""Not strict: a mapping's keys are strings in YAML."""


class PeerAuthentication(Message):
    """What the selected workloads accept of their peers."""

    selector: LabelSelector | None = None
    mtls: MutualTLS | None = None
    port_level_mtls: dict[PortNumber, MutualTLS] = Field({})


class JWTHeader(Message):
    """A header that carries the token, after ``prefix``."""

    name: str
    prefix: str = ""


class ClaimToHeader(Message):
    """A claim of a valid token that is copied into a request header."""

    header: str
    claim: str


class JWTRule(Message):
    """Tokens of one issuer, and the keys that prove them."""

    issuer: str = ""
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    jwks: str = ""
    from_headers: tuple[JWTHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    output_payload_to_header: str = ""
    forward_original_token: Bool = False
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    timeout: Duration | None = None
    space_delimited_claims: tuple[str, ...] = ()


class RequestAuthentication(Message):
    """Tokens that, when given, must be valid; a request without one passes."""

    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: tuple[PolicyTargetReference, ...] = ()
    jwt_rules: tuple[JWTRule, ...] = ()
