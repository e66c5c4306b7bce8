"""kubeconfig files: what k3s writes, read; and a lab's entry put into somebody's own, without harm to the rest."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from testbed.errors import bad_input


@dataclass(frozen=True)
class Access:
    """A cluster's API and who we are there.  The three texts are PEM."""

    host: str
    port: int
    ca: str
    certificate: str
    key: str

    def __repr__(self) -> str:
        return f"Access({self.host}:{self.port})"  # the key goes into no log


def read_access(text: str, file: str) -> Access:
    """The current context of a kubeconfig.  Raises :class:`BadInput` when something is missing."""
    config = _mapping(text, file)
    context = _named(config, "contexts", config.get("current-context"), "context", file)
    cluster = _named(config, "clusters", context.get("cluster"), "cluster", file)
    user = _named(config, "users", context.get("user"), "user", file)
    address = urlsplit(str(cluster.get("server", "")))
    if address.scheme != "https" or not address.hostname:
        raise bad_input(file, f"server {cluster.get('server')!r} is no https address")
    return Access(
        address.hostname,
        address.port or 443,
        _data(cluster, "certificate-authority", file),
        _data(user, "client-certificate", file),
        _data(user, "client-key", file),
    )


def merged(text: str, lab: str, access: Access, file: str) -> str:
    """The kubeconfig ``text`` (of ``file``; may be empty) with the entry ``testbed-LAB`` put in or renewed.

    Other entries stay as they are; so does the current context, unless there is none.
    """
    empty: dict[str, Any] = {"apiVersion": "v1", "kind": "Config"}
    config = _mapping(text, file) if text.strip() else empty
    name = f"testbed-{lab}"
    entries = {
        "clusters": {
            "cluster": {
                "server": f"https://{access.host}:{access.port}",
                "certificate-authority-data": _coded(access.ca),
            }
        },
        "users": {
            "user": {
                "client-certificate-data": _coded(access.certificate),
                "client-key-data": _coded(access.key),
            }
        },
        "contexts": {"context": {"cluster": name, "user": name}},
    }
    for field, value in entries.items():
        present = config.get(field) or []
        if not isinstance(present, list):
            raise bad_input(file, f"{field} is no list", "restore the file")
        others = [e for e in present if not (isinstance(e, dict) and e.get("name") == name)]
        config[field] = [*others, {"name": name, **value}]
    if not config.get("current-context"):
        config["current-context"] = name
    return yaml.safe_dump(config, sort_keys=False)


def _mapping(text: str, file: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise bad_input(file, f"is no YAML: {str(e).splitlines()[0]}") from None
    if not isinstance(value, dict) or value.get("kind", "Config") != "Config":
        raise bad_input(file, "is no kubeconfig", "name another file in KUBECONFIG")
    return value


def _named(config: dict[str, Any], field: str, name: object, inner: str, file: str) -> dict[str, Any]:
    for entry in config.get(field) or []:
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(inner), dict):
            return dict(entry[inner])
    raise bad_input(file, f"has no {inner} {name!r}")


def _data(holder: dict[str, Any], field: str, file: str) -> str:
    coded = holder.get(f"{field}-data")
    try:
        return base64.b64decode(str(coded or ""), validate=True).decode() if coded else _missing(field, file)
    except (binascii.Error, UnicodeDecodeError):
        raise bad_input(file, f"{field}-data is no base64 text") from None


def _missing(field: str, file: str) -> str:
    raise bad_input(file, f"has no {field}-data", "use a kubeconfig with embedded certificates")


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
