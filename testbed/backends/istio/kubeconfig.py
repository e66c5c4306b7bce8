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

    Other entries stay as they are, each value as it is written: what YAML takes for a time or a number (a token of
    digits) goes through no such type.  So does the current context, unless there is none.  Comments are lost, as
    when kubectl writes the file.
    """
    _mapping(text if text.strip() else _EMPTY, file)
    config = yaml.compose(text if text.strip() else _EMPTY, Loader=yaml.SafeLoader)
    assert isinstance(config, yaml.MappingNode)  # noqa: S101 _mapping has looked
    _times_as_text(config)
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
        entry = _node({"name": name, **value})
        present = _value(config, field)
        if isinstance(present, yaml.SequenceNode):
            others = [n for n in present.value if not _is_called(n, name)]
            entry.flow_style = present.flow_style
            present.value = [*others, entry]
        elif present is None or present.tag == _NULL:
            _set(config, field, yaml.SequenceNode(_SEQUENCE, [entry], flow_style=False))
        else:
            raise bad_input(file, f"{field} is no list", "restore the file")
    current = _value(config, "current-context")
    if not isinstance(current, yaml.ScalarNode) or current.tag == _NULL or not current.value:
        _set(config, "current-context", _node(name))
    return yaml.serialize(config, Dumper=yaml.SafeDumper, width=1 << 20)


_EMPTY = "apiVersion: v1\nkind: Config\n"
_NULL, _SEQUENCE, _TEXT, _TIME = (f"tag:yaml.org,2002:{name}" for name in ("null", "seq", "str", "timestamp"))


def _times_as_text(node: yaml.Node) -> None:
    """A time that has to be quoted would get a tag before it, which nobody expects: to kubectl it is text."""
    if isinstance(node, yaml.ScalarNode) and node.tag == _TIME:
        node.tag = _TEXT
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _times_as_text(item)
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            _times_as_text(value)


def _node(value: object) -> Any:
    return yaml.compose(yaml.safe_dump(value, sort_keys=False, width=1 << 20), Loader=yaml.SafeLoader)


def _value(mapping: yaml.MappingNode, key: str) -> yaml.Node | None:
    return next((value for name, value in mapping.value if name.value == key), None)


def _set(mapping: yaml.MappingNode, key: str, value: yaml.Node) -> None:
    others = [(name, there) for name, there in mapping.value if name.value != key]
    mapping.value = [*others, (_node(key), value)]


def _is_called(entry: yaml.Node, name: str) -> bool:
    called = _value(entry, "name") if isinstance(entry, yaml.MappingNode) else None
    return called is not None and called.value == name


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
