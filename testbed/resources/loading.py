"""Documents to resources: every problem is located, none is passed over; and resources back to YAML."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from testbed.documents import Document, Path
from testbed.errors import BadInput, Location, Problem
from testbed.resources.gateway import FileTLSSettings, Gateway, ServerTLSSettings
from testbed.resources.kinds import BY_NAME, BY_SPEC, IGNORED_KINDS, KINDS, Kind
from testbed.resources.outdated import migrate_step, outdated_field, outdated_kind
from testbed.resources.refused import REFUSED_KINDS, refusal
from testbed.resources.resource import Key, Resource, ResourceSet
from testbed.resources.service_entry import ServiceEntry
from testbed.resources.sidecar import Sidecar
from testbed.resources.validation import check
from testbed.resources.values import Message, to_plain

_MAX_PROBLEMS = 200
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA = (
    "name", "namespace", "labels", "annotations", "generateName", "resourceVersion", "uid", "generation",
    "creationTimestamp", "managedFields", "ownerReferences", "finalizers", "selfLink", "deletionTimestamp",
)  # fmt: skip
DEFAULT_NAMESPACE = "default"


def load(documents: Iterable[Document], namespace: str = DEFAULT_NAMESPACE) -> ResourceSet:
    """The resources of the documents; ``namespace`` is for those that don't say theirs.

    Raises :class:`BadInput` with all problems found, in the order of the files.  Kubernetes' own kinds are left
    out and listed in ``ResourceSet.ignored``.
    """
    resources, problems = read(documents, namespace)
    if problems:
        raise BadInput(problems)
    return resources


def read(documents: Iterable[Document], namespace: str = DEFAULT_NAMESPACE) -> tuple[ResourceSet, list[Problem]]:
    """The documents that are right, and what is wrong with the others (200 problems at most)."""
    resources: dict[Key, Resource[Message]] = {}
    problems: list[Problem] = []
    ignored: list[Problem] = []
    for document in _expanded(documents):
        found, wrong, note = _read(document, namespace)
        problems += wrong
        if note:
            ignored.append(note)
        if found is None:
            continue
        if found.key in resources:
            first = resources[found.key].locate("metadata", "name")
            message = f"{found.key} is given twice, first at {first.file}:{first.line}"
            problems.append(Problem(found.locate("metadata", "name"), message, "keep one of them, or rename one"))
        resources.setdefault(found.key, found)
        if len(problems) >= _MAX_PROBLEMS:
            break
    return ResourceSet(resources.values(), ignored), problems[:_MAX_PROBLEMS]


def dump(resources: Iterable[Resource[Message]]) -> str:
    """The resources as YAML text, one document each, in order; ``load`` of it gives equal resources."""
    plain = [resource.to_plain() for resource in resources]
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump_all(plain, Dumper=dumper, sort_keys=False, allow_unicode=True)) if plain else ""


def resource(
    spec: Message, name: str, namespace: str = DEFAULT_NAMESPACE, labels: Mapping[str, str] | None = None
) -> Resource[Any]:
    """A resource made by a program, under today's version of its API; nothing is checked.

    Its document has no file: ``locate`` gives the resource's key instead.
    """
    kind = BY_SPEC[type(spec)]
    where = Key(kind.group, kind.name, namespace if kind.namespaced else "", name)
    value = {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {"name": name, "namespace": where.namespace},
        "spec": to_plain(spec),
    }
    return Resource(
        kind.name,
        kind.api_version,
        name,
        where.namespace,
        spec,
        dict(labels or {}),
        {},
        Document(f"<{where}>", value),
    )


def _expanded(documents: Iterable[Document]) -> Iterator[Document]:
    """A ``kind: List`` stands for its items."""
    for document in documents:
        value = document.value
        if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
            prefix = ("items",)
            for i, item in enumerate(value["items"]):
                start = (*prefix, i)
                inside = {p[2:]: at for p, at in document.positions.items() if p[:2] == start}
                yield Document(document.file, item, inside)
        else:
            yield document


def _read(document: Document, namespace: str) -> tuple[Resource[Message] | None, list[Problem], Problem | None]:
    value = document.value
    if not isinstance(value, dict):
        return (
            None,
            [_problem(document, (), "not a resource: a mapping was expected", "write apiVersion, kind, …")],
            None,
        )
    api_version, kind_name = value.get("apiVersion"), value.get("kind")
    if not isinstance(api_version, str) or not isinstance(kind_name, str):
        missing = "apiVersion" if not isinstance(api_version, str) else "kind"
        message = f"not a resource: no {missing}"
        return None, [_problem(document, (missing,), message, "write apiVersion, kind, metadata and spec")], None
    group, _, version = api_version.rpartition("/")
    if reason := IGNORED_KINDS.get((group, kind_name)):
        return None, [], _problem(document, ("kind",), f"{kind_name} is left out: {reason}", "")
    kind = BY_NAME.get((group, kind_name))
    if kind is None or version not in kind.versions:
        return None, [_no_such_kind(document, group, version, kind_name, kind)], None
    problems = [*_metadata_problems(document, kind)]
    made: Resource[Message] | None = None
    try:
        spec = kind.spec.model_validate(_without_nulls(value.get("spec") or {}), by_alias=True, by_name=False)
    except ValidationError as e:
        problems += _field_problems(e, document, kind)
    else:
        problems += _refused_values(spec, document)
        if not problems:
            made = _made(document, kind, spec, namespace)
            problems += (_problem(document, *finding) for finding in check(made))
    if problems:
        return None, sorted(problems, key=lambda p: (p.location.line, p.location.column)), None
    return made, [], None


def _made(document: Document, kind: Kind, spec: Message, namespace: str) -> Resource[Message]:
    metadata = document.value["metadata"]
    return Resource(
        kind=kind.name,
        api_version=document.value["apiVersion"],
        name=metadata["name"],
        namespace=(metadata.get("namespace") or namespace) if kind.namespaced else "",
        spec=spec,
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        document=document,
    )


def _refused_values(spec: Message, document: Document) -> Iterator[Problem]:
    found: list[tuple[Path, str]] = []
    if isinstance(spec, ServiceEntry):
        found += [(("spec", "resolution"), refusal(ServiceEntry, "resolution", spec.resolution))]
    elif isinstance(spec, Gateway):
        found += [
            (("spec", "servers", i, "tls", "mode"), refusal(ServerTLSSettings, "mode", server.tls.mode))
            for i, server in enumerate(spec.servers)
            if server.tls
        ]
    elif isinstance(spec, Sidecar):
        found += [
            (("spec", "ingress", i, "tls", "mode"), refusal(FileTLSSettings, "mode", listener.tls.mode))
            for i, listener in enumerate(spec.ingress)
            if listener.tls
        ]
    for path, why in found:
        if why:
            yield _problem(document, path, f"the value is refused: {why}", "write another value")


def _problem(document: Document, path: Path, message: str, next_step: str) -> Problem:
    return Problem(document.locate(path), message, next_step)


def _no_such_kind(document: Document, group: str, version: str, name: str, kind: Kind | None) -> Problem:
    if kind is not None:
        message = f"{kind.group} has no version {version!r} of {name}"
        return _problem(document, ("apiVersion",), message, f"write {kind.api_version}")
    if reason := REFUSED_KINDS.get((group, name)):
        return _problem(document, ("kind",), f"{name} is refused: it {reason}", "remove the document")
    if today := outdated_kind(group, name):
        step = migrate_step(today, document.file)
        return _problem(document, ("kind",), f"{name} of {group} is outdated: Istio no longer reads it", step)
    same_name = [k for k in KINDS if k.name == name]
    if same_name:
        message = f"{name} is no kind of {group or 'the core group'!s}"
        return _problem(document, ("apiVersion",), message, f"write {same_name[0].api_version}")
    near = difflib.get_close_matches(name, [k.name for k in KINDS], 1)
    step = f"did you mean {near[0]}?" if near else "known: " + ", ".join(dict.fromkeys(k.name for k in KINDS))
    return _problem(document, ("kind",), f"unknown kind {name!r} of {group or 'the core group'}", step)


def _metadata_problems(document: Document, kind: Kind) -> Iterator[Problem]:
    value = document.value
    for key in value:
        if key not in _TOP:
            yield _unknown(document, (key,), key, _TOP)
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        yield _problem(document, ("metadata",), "metadata is missing", "write metadata with a name")
        return
    for key in metadata:
        if key not in _METADATA:
            yield _unknown(document, ("metadata", key), key, _METADATA)
    name = metadata.get("name")
    if not isinstance(name, str) or not name:
        yield _problem(document, ("metadata", "name"), "the name is missing", "write a name (a DNS name, RFC 1123)")
    elif not _dns_name(name):
        message = f"{name!r} is no DNS name (RFC 1123)"
        yield _problem(document, ("metadata", "name"), message, "write small letters, digits, - and .")
    namespace = metadata.get("namespace")
    if namespace is not None and not (isinstance(namespace, str) and _dns_name(namespace) and "." not in namespace):
        message = f"{namespace!r} is no namespace"
        yield _problem(document, ("metadata", "namespace"), message, "write small letters, digits and -")
    for part in ("labels", "annotations"):
        for key, text in (metadata.get(part) or {}).items() if isinstance(metadata.get(part), dict) else ():
            if not isinstance(text, str):
                message = f"the value of {part} {key!r} must be text (got {text!r})"
                yield _problem(document, ("metadata", part, key), message, f'write "{text}" in quotes')
    if "spec" in value and value["spec"] is not None and not isinstance(value["spec"], dict):
        yield _problem(document, ("spec",), "spec must be a mapping", f"write the fields of {kind.name} below spec")


def _dns_name(text: str) -> bool:
    return (
        len(text) <= 253
        and text.isascii()
        and text == text.lower()
        and all(p and p[0] != "-" and p[-1] != "-" and p.replace("-", "").isalnum() for p in text.split("."))
    )


def _without_nulls(value: Any) -> Any:
    # the API server drops null fields; an element of a list stays, and is a wrong type
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value


def _unknown(document: Document, path: Path, key: str, names: Iterable[str]) -> Problem:
    near = difflib.get_close_matches(key, list(names), 1, 0.5)
    known = ", ".join(sorted(names)[:30])
    step = f"did you mean {near[0]}?" if near else f"known here: {known}" if known else "remove it"
    return _problem(document, path, f"unknown field {key!r}", step)


def _field_problems(error: ValidationError, document: Document, kind: Kind) -> Iterator[Problem]:
    for item in error.errors(include_url=False):
        path: Path = ("spec", *(p for p in item["loc"] if p != "[key]"))
        owner, message, given = owner_of(kind.spec, path[1:-1]), item["msg"], item.get("input")
        name = str(path[-1])
        if item["type"] == "extra_forbidden":
            if owner and (reason := refusal(owner, name)):
                yield _problem(document, path, f"{name!r} is refused: {reason}", "remove it")
            elif owner and (today := outdated_field(owner, name)):
                message = f"{name!r} is outdated: Istio has no such field here"
                yield _problem(document, path, message, migrate_step(today, document.file))
            else:
                yield _unknown(document, path, name, _names(owner) if owner else ())
            continue
        if item["type"] == "missing":
            yield _problem(document, path, f"required field {name!r} is missing", f"write {name}")
            continue
        message = _MESSAGES.get(item["type"], message.removeprefix("Value error, "))
        if isinstance(given, str | int | float | bool):
            shown = repr(given)
            message += f" (got {shown if len(shown) < 80 else shown[:77] + '...'})"
        yield _problem(document, path, message, _type_hint(item["type"], given))


_MESSAGES = {
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
}


def _type_hint(error: str, given: object) -> str:
    if error == "string_type" and isinstance(given, int | float | bool):
        return "quote it"
    if error in ("int_type", "float_type", "bool_type") and isinstance(given, str):
        return "write it without quotes"
    if error == "tuple_type":
        return "write a list: put - before it"
    if error in ("model_type", "dict_type", "model_attributes_type"):
        return "write fields below it, each with a name"
    return "write one of the values named" if error == "enum" else "correct the value"


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def owner_of(model: type[Message], path: Path) -> type[Message] | None:
    """The message at ``path`` (YAML names, list positions, map keys) below ``model``; None off the map."""
    current: Any = model
    for part in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            match = [f.annotation for n, f in current.model_fields.items() if (f.alias or n) == part]
            if not match:
                return None
            current = _bare(match[0])
        else:  # an element of a list, or a mapping's value
            arguments = [a for a in get_args(current) if a is not Ellipsis]
            if not arguments:
                return None
            current = _bare(arguments[-1])
    return current if isinstance(current, type) and issubclass(current, Message) else None


def _bare(annotation: Any) -> Any:
    """Without ``| None``."""
    rest = [a for a in get_args(annotation) if a is not type(None)]
    return rest[0] if type(None) in get_args(annotation) and rest else annotation


__all__ = ["DEFAULT_NAMESPACE", "Location", "dump", "load", "owner_of", "resource"]
