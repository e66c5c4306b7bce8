"""Secrets as Envoy reads them: one ``Secret`` a file, certificate and key in it, so that both change at once."""

from __future__ import annotations

import json
from typing import Any

from testbed.model.proxy import XdsFile, content_hash
from testbed.pki import Credential

TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
IDENTITY, ROOTS = "default", "ROOTCA"
"""Names that Istio gives them."""


def identity_version(chain: bytes) -> str:
    """The version of a certificate's file: it says nothing of the key."""
    return content_hash("certificate", chain)


def identity_file(credential: Credential, name: str = IDENTITY) -> XdsFile:
    """What a workload shows, or a gateway under the name of a credential."""
    secret = {
        "tls_certificate": {
            "certificate_chain": {"inline_string": credential.chain.decode()},
            "private_key": {"inline_string": credential.key.decode()},
        }
    }
    return _file(name, identity_version(credential.chain), secret)


def roots_file(roots: bytes) -> XdsFile:
    """Whom a proxy trusts."""
    return _file(
        ROOTS,
        content_hash("roots", roots),
        {"validation_context": {"trusted_ca": {"inline_string": roots.decode()}}},
    )


def _file(name: str, version: str, secret: dict[str, Any]) -> XdsFile:
    response = {
        "version_info": version,
        "type_url": TYPE,
        "resources": [{"@type": TYPE, "name": name, **secret}],
    }
    return XdsFile(f"sds/{name}.json", TYPE, (name,), version, json.dumps(response).encode())
