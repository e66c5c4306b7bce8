"""Private registries on a node: k3s's ``registries.yaml``, and the certificates that it names.

The format: https://docs.k3s.io/installation/private-registry.  Pure: contents in, files out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from testbed.deploy.files import NodeFile
from testbed.model.clusters import endpoint_host
from testbed.model.inventory import Registry

_FOLDER = "/etc/rancher/k3s"
REGISTRIES = f"{_FOLDER}/registries.yaml"


@dataclass(frozen=True)
class RegistryAccess:
    """The contents of what an inventory names for a registry; empty for what it doesn't."""

    ca: str = ""
    certificate: str = ""
    key: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


RegistriesAccess = Mapping[str, RegistryAccess]
"""By registry, as the inventory calls it."""


def registry_files(registries: Mapping[str, Registry], access: RegistriesAccess) -> Iterator[NodeFile]:
    """``registries.yaml`` and the files that it names, readable by root alone; nothing without registries.

    k3s reads them when it starts.  ``access`` has an entry for each of ``registries``.
    """
    if not registries:
        return
    configs: dict[str, object] = {}
    for name, registry in registries.items():
        has = access[name]
        config: dict[str, object] = {}
        if registry.username is not None:
            config["auth"] = {"username": registry.username, "password": has.password}
        tls = {"ca_file": has.ca, "cert_file": has.certificate, "key_file": has.key}
        paths = {kind: _path(name, kind) for kind, content in tls.items() if content}
        if paths:
            config["tls"] = paths
        yield from (NodeFile(path, tls[kind], 0o600) for kind, path in paths.items())
        if config:
            configs |= {endpoint_host(endpoint): config for endpoint in registry.endpoints}
    mirrors = {name: {"endpoint": list(registry.endpoints)} for name, registry in registries.items()}
    content: dict[str, object] = {"mirrors": mirrors} | ({"configs": configs} if configs else {})
    yield NodeFile(REGISTRIES, yaml.dump(content, Dumper=_Plain, sort_keys=False, width=200), 0o600)


def _path(registry: str, kind: str) -> str:
    return f"{_FOLDER}/registries/{registry.replace('*', 'others')}/{kind.removesuffix('_file')}.pem"


class _Plain(yaml.SafeDumper):
    """Writes out what several endpoints have in common, instead of an alias."""

    def ignore_aliases(self, data: object) -> bool:
        """Always."""
        return True
