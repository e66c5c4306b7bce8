"""What one proxy must have: files for Envoy's filesystem subscriptions, each with a version of its own.

Envoy reads each file as a ``DiscoveryResponse`` in JSON.  Route, endpoint and secret files hold one resource
each (Envoy takes no more from a file); clusters and listeners are one file each.  ``version`` is a content
hash, written as the response's ``version_info``: Envoy's config dump answers with it once it is taken up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class XdsFile:
    """One subscribed file.  ``path`` is relative to the proxy's directory: ``cds.json``, ``lds.json``,
    ``rds/<name>.json``, ``eds/<name>.json``."""

    path: str
    type_url: str
    resources: tuple[str, ...]
    """Names of the resources in it, as Envoy's config dump shows them."""
    version: str
    content: bytes


@dataclass(frozen=True)
class ProxyConfiguration:
    """Everything that the proxy of ``workload`` reads, secrets left out."""

    workload: str
    files: Mapping[str, XdsFile]
    """By path."""

    @cached_property
    def revision(self) -> str:
        """The content hash of what the proxy must have: 16 hexadecimal digits."""
        return content_hash(*(part for path in sorted(self.files) for part in (path, self.files[path].version)))


def content_hash(*parts: str | bytes) -> str:
    """16 hexadecimal digits of SHA-256 over the parts, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]


def lab_revision(proxies: Mapping[str, ProxyConfiguration]) -> str:
    """The lab's revision: the hash of its proxies' revisions."""
    return content_hash(*(part for name in sorted(proxies) for part in (name, proxies[name].revision)))
