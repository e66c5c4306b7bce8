"""Forms of earlier releases, and forms that older documents show: what to say of each.

The loader answers from these tables; :mod:`testbed.resources.migration` rewrites what they name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from testbed.resources.values import Message

OUTDATED_KINDS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("authentication.istio.io", "Policy"): "PeerAuthentication (peers) and RequestAuthentication (origins)",
        ("authentication.istio.io", "MeshPolicy"): "PeerAuthentication in the root namespace",
        ("authorization.istio.io", "Policy"): "AuthorizationPolicy, with action instead of effect",
        ("rbac.istio.io", "ServiceRole"): "AuthorizationPolicy (rules.to)",
        ("rbac.istio.io", "ServiceRoleBinding"): "AuthorizationPolicy (rules.from)",
        ("rbac.istio.io", "AuthorizationPolicy"): "AuthorizationPolicy of security.istio.io",
        ("rbac.istio.io", "ClusterRbacConfig"): "an AuthorizationPolicy with an empty spec, which allows nothing",
        ("rbac.istio.io", "RbacConfig"): "an AuthorizationPolicy with an empty spec, which allows nothing",
    }
)

_HEADERS = "headers.request and headers.response, with add, set and remove"
OUTDATED_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "HTTPRoute.retryPolicy": "retries, with attempts and perTryTimeout",
        "HTTPRoute.websocketUpgrade": "nothing: websockets always work",
        "HTTPRoute.appendHeaders": _HEADERS,
        "HTTPRoute.appendRequestHeaders": _HEADERS,
        "HTTPRoute.appendResponseHeaders": _HEADERS,
        "HTTPRoute.removeRequestHeaders": _HEADERS,
        "HTTPRoute.removeResponseHeaders": _HEADERS,
        "HTTPRouteDestination.appendRequestHeaders": _HEADERS,
        "HTTPRouteDestination.appendResponseHeaders": _HEADERS,
        "HTTPRouteDestination.removeRequestHeaders": _HEADERS,
        "HTTPRouteDestination.removeResponseHeaders": _HEADERS,
        "Abort.percent": "percentage.value",
        "HTTPRetry.maxAttempts": "attempts",
        "HTTPSettings.connectTimeout": "connectionPool.tcp.connectTimeout",
        "HTTPSettings.retryPolicy": "retries in a VirtualService's route (attempts, backoff)",
        "AuthorizationPolicy.effect": "action",
        "Rule.effect": "action of the whole policy",
    }
)


def outdated_kind(group: str, kind: str) -> str:
    """What stands in its place today; nothing for a kind that Istio never had."""
    return OUTDATED_KINDS.get((group, kind), "")


def outdated_field(owner: type[Message], name: str) -> str:
    """What stands in its place today; nothing for a field that is not known to be outdated."""
    return OUTDATED_FIELDS.get(f"{owner.__name__}.{name}", "")


def migrate_step(today: str, file: str) -> str:
    """The line that says what to do next."""
    return f"write {today}; `testbed migrate {file} --write` does it"
