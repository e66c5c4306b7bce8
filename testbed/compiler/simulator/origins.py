"""From names and metadata in the configuration back to the resource, its file and line.

The compiler leaves traces: RBAC policies are named ``ns[...]-policy[...]-rule[n]``, routes carry the rule's
number in their metadata.  The resources are asked for the place only, never for what they mean.
"""

from __future__ import annotations

import re
from typing import Any

from testbed.compiler.simulator.explanation import Origin
from testbed.resources.resource import Resource, ResourceSet
from testbed.resources.values import Message

_POLICY = re.compile(r"ns\[(.*?)\]-policy\[(.*?)\]-rule\[(\d+)\]")
_CONFIG = re.compile(r"/namespaces/([^/]+)/([a-z-]+)/([^/]+)$")


class Origins:
    """Finds resources by the traces that they left."""

    def __init__(self, resources: ResourceSet) -> None:
        self._resources = {(r.kind.lower(), r.namespace, r.name): r for r in resources}

    def policy(self, name: str) -> Origin | None:
        """The rule of an AuthorizationPolicy by the name of its RBAC policy."""
        found = _POLICY.search(name)
        if found is None:
            return None
        namespace, policy, rule = found.groups()
        resource = self._resources.get(("authorizationpolicy", namespace, policy))
        return _origin(resource, "AuthorizationPolicy", namespace, policy, ("spec", "rules", int(rule)))

    def issuer(self, issuer: str) -> Origin | None:
        """The RequestAuthentication with a rule for that issuer."""
        for resource in self._resources.values():
            for number, rule in enumerate(getattr(resource.spec, "jwt_rules", ())):
                if rule.issuer == issuer:
                    path = ("spec", "jwtRules", number)
                    return _origin(resource, resource.kind, resource.namespace, resource.name, path)
        return None

    def metadata(self, message: Any) -> Origin | None:
        """The resource that a route, virtual host or cluster was made of."""
        known = message.metadata.filter_metadata
        config = known["istio"].fields["config"].string_value if "istio" in known else ""
        found = _CONFIG.search(config)
        if found is None:
            return None
        namespace, kind, name = found.groups()
        resource = self._resources.get((kind.replace("-", ""), namespace, name))
        own = known["testbed"].fields if "testbed" in known else {}
        path: tuple[str | int, ...] = ("spec",)
        if "rule" in own:
            path = ("spec", "http", int(own["rule"].number_value))
            if resource is not None and "match" in own and _has(resource, (*path, "match")):
                path = (*path, "match", int(own["match"].number_value))
        label = resource.kind if resource is not None else kind
        return _origin(resource, label, namespace, name, path)

    def cluster(self, message: Any) -> Origin | None:
        """The DestinationRule of a cluster; the subset's place in it, for a subset's cluster."""
        found = self.metadata(message)
        subset = message.name.split("|")[2:3]
        if found is None or not subset or not subset[0]:
            return found
        kind, _, key = found.resource.partition(" ")
        namespace, _, name = key.partition("/")
        resource = self._resources.get((kind.lower(), namespace, name))
        for number, declared in enumerate(getattr(resource.spec, "subsets", ()) if resource is not None else ()):
            if resource is not None and declared.name == subset[0]:
                return Origin(found.resource, resource.locate("spec", "subsets", number))
        return found


def _has(resource: Resource[Message], path: tuple[str | int, ...]) -> bool:
    return path in resource.document.positions


def _origin(
    resource: Resource[Message] | None, kind: str, namespace: str, name: str, path: tuple[str | int, ...]
) -> Origin:
    return Origin(f"{kind} {namespace}/{name}", resource.locate(*path) if resource is not None else None)
