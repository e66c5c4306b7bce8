"""Signatures of container images, as Cosign keeps them beside an image in its registry.

Two forms are read.  Cosign 1 and 2 sign a "simple signing" payload, which lies with its signature at the tag
``sha256-HEX.sig`` (Cosign's specs/SIGNATURE_SPEC.md).  Cosign 3 signs an in-toto statement in a DSSE envelope;
that lies in a Sigstore bundle, in an artifact that refers to the image (Cosign's specs/BUNDLE_SPEC.md; the tag
``sha256-HEX`` lists such artifacts, by the OCI distribution specification's "Referrers Tag Schema").

What is checked is what ``cosign verify --key KEY --insecure-ignore-tlog`` checks: that the holder of the key has
signed this manifest's digest.  Pure: bytes in, values out.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle"
"""What media types of bundles begin with; a version comes after it."""

_SIMPLE_SIGNING = "cosign container image signature"
_STATEMENT_TYPE = "application/vnd.in-toto+json"
_IMAGE_SIGNATURE = "https://sigstore.dev/cosign/sign/v1"
"""The kind of statement that says no more than "signed"; others are attestations of something."""


@dataclass(frozen=True)
class Signed:
    """A signature, and what it is of."""

    message: bytes
    signature: bytes
    digests: frozenset[str]
    """Of the manifests that the message is about, as ``sha256:HEX``."""


def simple_signing(payload: bytes, signature: str) -> tuple[Signed, ...]:
    """A payload at the tag ``.sig``, and its annotation.  Raises :class:`ValueError` for anything else."""
    try:
        critical = json.loads(payload)["critical"]
        kind, digest = critical["type"], critical["image"]["docker-manifest-digest"]
    except (KeyError, TypeError):
        raise ValueError("it is no simple signing payload") from None
    if kind not in (_SIMPLE_SIGNING, "atomic container signature"):
        raise ValueError(f"it signs no image but: {kind}")
    return (Signed(payload, base64.b64decode(signature, validate=True), frozenset({str(digest)})),)


def bundled(bundle: bytes) -> tuple[Signed, ...]:
    """The signatures of an image in a Sigstore bundle.  Raises :class:`ValueError` for anything else."""
    try:
        envelope = json.loads(bundle)["dsseEnvelope"]
        kind, body = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
        statement = json.loads(body)
        subjects = frozenset(f"sha256:{s['digest']['sha256']}" for s in statement["subject"])
        signatures = [base64.b64decode(s["sig"], validate=True) for s in envelope["signatures"]]
        says = statement["predicateType"]
    except (KeyError, TypeError):
        raise ValueError("it is no bundle with a statement") from None
    if kind != _STATEMENT_TYPE or says != _IMAGE_SIGNATURE:
        raise ValueError(f"it signs no image but: {says} in {kind}")
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(body), body)
    return tuple(Signed(message, signature, subjects) for signature in signatures)


def is_signed(digest: str, found: Iterable[Signed], key: str) -> bool:
    """Whether one of these signatures is of the manifest with that digest, by the holder of the key.

    ``key`` is a public key in PEM; raises :class:`ValueError` for one that is neither of an elliptic curve nor RSA.
    """
    return any(digest in each.digests and _verifies(each, key) for each in found)


def _verifies(signed: Signed, key: str) -> bool:
    try:
        public = load_pem_public_key(key.encode())
    except UnsupportedAlgorithm as e:
        raise ValueError(str(e)) from None
    try:
        match public:
            case ec.EllipticCurvePublicKey():
                public.verify(signed.signature, signed.message, ec.ECDSA(SHA256()))
            case rsa.RSAPublicKey():
                public.verify(signed.signature, signed.message, PKCS1v15(), SHA256())
            case _:
                raise ValueError(f"a key of the kind {type(public).__name__} is not read")
    except InvalidSignature:
        return False
    return True
