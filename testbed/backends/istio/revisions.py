"""Istio's control plane as revisions: several may be in a cluster, and each proxy is served by one of them.

Pure.  What a revision is, and how one takes over from another: Istio's page "Canary Upgrades".
docs/decisions/0012 has why a control plane is never installed without one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

REVISION_LABEL = "istio.io/rev"
"""On what belongs to a revision, on namespaces and pods that it serves."""

SYSTEM = "istio-system"

UNNAMED = "default"
"""The label's value at a control plane that was installed without a revision."""

_NUMBERS = re.compile(r"^(\d+)[.-](\d+)[.-](\d+)")


@dataclass(frozen=True)
class Part:
    """An object of the cluster, by what it is deleted by."""

    api_version: str
    kind: str
    namespace: str
    name: str


def revision_of(version: str) -> str:
    """The revision that a version is installed as: a label's value, and a part of objects' names, has no dots."""
    return version.replace(".", "-")


def refusal(there: Collection[str], version: str) -> str:
    """Why ``version`` can't take over from the revisions that are there; empty when it can.

    One minor version up, or down to where one came from.  A proxy is served by its own revision meanwhile, but what
    is shared is not revisioned: definitions of resources, and istiod's address that machines have.  Istio's page
    "Supported Releases" allows a control plane one version ahead of its proxies, and "In-place Upgrades" one minor
    version at a time.
    """
    wanted = _numbers(version)
    for revision in sorted(there):
        old = _numbers(revision)
        if old and wanted and (old[0] != wanted[0] or abs(old[1] - wanted[1]) > 1):
            return (
                f"Istio {'.'.join(map(str, old))} is in the cluster: {version} is more than one minor version away"
            )
    return ""


def goes_back(there: Collection[str], version: str) -> bool:
    """Whether a newer one than ``version`` is there, whose definitions of resources have to stay then."""
    return any(_numbers(revision) > _numbers(version) for revision in there)


def parts(revision: str) -> tuple[tuple[Part, ...], ...]:
    """What Istio's charts make for this revision alone, in groups that go one after the other.

    The ConfigMap with the mesh's settings is the last: a revision is there for as long as that is.  Not among them
    are definitions of resources, the readers' ServiceAccount, and what says which revision is the current one.
    """
    tail = "" if revision == UNNAMED else f"-{revision}"
    admission, rights = "admissionregistration.k8s.io/v1", "rbac.authorization.k8s.io/v1"
    roles = [f"{name}{tail}-{SYSTEM}" for name in _CLUSTER_ROLES]
    # the unnamed one's Service has the name that machines know istiod by: it belongs to the current revision by now
    services = [Part("v1", "Service", SYSTEM, f"istiod{tail}")] if tail else []
    return (
        (
            Part(admission, "MutatingWebhookConfiguration", "", f"istio-sidecar-injector{tail}"),
            Part(admission, "ValidatingWebhookConfiguration", "", f"istio-validator{tail}-{SYSTEM}"),
            Part("apps/v1", "Deployment", SYSTEM, f"istiod{tail}"),
        ),
        # once its pods are gone: istiod gives its leases back when it ends, for which it needs its rights
        (
            *services,
            *(Part(rights, kind, "", name) for kind in ("ClusterRoleBinding", "ClusterRole") for name in roles),
            *(Part(rights, kind, SYSTEM, f"istiod{tail}") for kind in ("RoleBinding", "Role")),
            Part("v1", "ServiceAccount", SYSTEM, f"istiod{tail}"),
            Part("v1", "ConfigMap", SYSTEM, f"istio-sidecar-injector{tail}"),
            Part("v1", "ConfigMap", SYSTEM, f"values{tail}"),
            Part("v1", "ConfigMap", SYSTEM, f"istio{tail}"),
        ),
    )


_CLUSTER_ROLES = ("istio-reader-clusterrole", "istiod-clusterrole", "istiod-gateway-controller")


def _numbers(version: str) -> tuple[int, ...]:
    """Major, minor and patch; nothing for a name that no version has."""
    found = _NUMBERS.match(version)
    return tuple(map(int, found.groups())) if found else ()
