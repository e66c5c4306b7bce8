"""Resources into the cluster: all of them or none, and nothing that is no longer wanted stays.

What is ours carries the lab's label: it is what is taken away when it is no longer wanted, and what ``applied``
reads back; nothing is kept on this host.  A dry run goes first and through all of admission, so that a resource
that is refused leaves the cluster as it was, and its place in a file can be named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.backends.istio.api import ApiRefused, Cause, KubeApi
from testbed.documents import Document, Path
from testbed.errors import BadInput, MeshError, Problem
from testbed.resources import Key, Resource, ResourceSet, load
from testbed.resources.kinds import KINDS, Kind
from testbed.resources.values import Message

LAB_LABEL = "testbed.dev/lab"
"""Marks what was applied for a lab."""

_FIRST = ("DestinationRule", "ServiceEntry", "WorkloadEntry", "Gateway", "GatewayClass")
"""What others refer to goes in first and away last: a route to a subset that is not there yet answers 503."""

_UNTYPED = re.compile(r"^.*?\.((?:spec|metadata)[^:\s]*): (.+)$", re.MULTILINE)
"""How the API says that a patch doesn't fit the schema (with 500, not 422): a line a place."""


@dataclass(frozen=True)
class Change:
    """What an apply does, or did, to the cluster."""

    created: tuple[Key, ...] = ()
    changed: tuple[Key, ...] = ()
    removed: tuple[Key, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.created or self.changed or self.removed)


@dataclass(frozen=True)
class _Live:
    """An object of the lab's as the cluster has it."""

    kind: Kind
    value: Mapping[str, Any]

    @property
    def key(self) -> Key:
        """Its key in a set."""
        metadata = self.value["metadata"]
        return Key(self.kind.group, self.kind.name, metadata.get("namespace", ""), metadata["name"])


class LabResources:
    """The resources of the lab ``lab`` in a cluster."""

    def __init__(self, api: KubeApi, lab: str) -> None:
        self._api = api
        self._lab = lab

    def applied(self) -> ResourceSet:
        """What is in the cluster, oldest first as Istio orders it: by the time of creation, then by name."""
        live = sorted(self._live(), key=lambda o: (o.value["metadata"].get("creationTimestamp", ""), o.key))
        return load(Document("the cluster", self._as_given(o.value)) for o in live)

    def versions(self) -> Mapping[Key, str]:
        """The version that the API has stored of each."""
        return {o.key: str(o.value["metadata"]["resourceVersion"]) for o in self._live()}

    def diff(self, wanted: ResourceSet) -> Change:
        """What :meth:`apply` would do.

        Raises :class:`BadInput`, located, for what the cluster refuses, and :class:`ApiRefused` when the API could
        not look at it at all: nobody's file is wrong then.
        """
        live = {o.key: o for o in self._live()}
        created, changed, problems = [], [], []
        for resource in wanted:
            try:
                after = self._apply(resource, dry_run=True)
            except ApiRefused as e:
                if not _is_about_it(e):
                    raise
                problems += _located(resource, e)
                continue
            before = live.get(resource.key)
            if before is None:
                problems += self._taken(resource)
                created.append(resource.key)
            elif _content(after) != _content(before.value):
                changed.append(resource.key)
        if problems:
            raise BadInput(problems)
        removed = [key for key in live if key not in wanted]
        return Change(tuple(created), tuple(changed), tuple(sorted(removed)))

    def apply(self, wanted: ResourceSet) -> Change:
        """Make ``wanted`` the lab's resources.  What is refused is refused before anything is changed.

        Raises :class:`MeshError` when the API fails in the middle, with how far it came.
        """
        change = self.diff(wanted)
        touched = {*change.created, *change.changed}
        resources = sorted((r for r in wanted if r.key in touched), key=lambda r: _rank(r.kind))
        for done, resource in enumerate(resources):
            try:
                self._apply(resource, dry_run=False)
            except ApiRefused as e:
                hint = f"{done} of {len(resources)} are applied; the same command goes on from there"
                raise MeshError(str(resource.key), "apply it", e.cause, hint) from e
        gone = [o for o in self._live() if o.key in change.removed]
        for live in sorted(gone, key=lambda o: -_rank(o.kind.name)):
            self._api.delete(self._path_of(live.value["apiVersion"], live.key))
        return change

    def _live(self) -> Sequence[_Live]:
        return [_Live(kind, value) for kind in KINDS for value in self._all_of(kind)]

    def _all_of(self, kind: Kind) -> Iterable[Mapping[str, Any]]:
        try:
            path = self._api.path(kind.api_version, kind.name)
        except ApiRefused as e:
            if e.code == 404:  # the cluster lacks these definitions (Gateway API's): then it has none of ours
                return []
            raise
        listed = self._api.every(path, f"{LAB_LABEL}={self._lab}")
        # a list's items don't say what they are
        return [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in listed]

    def _taken(self, resource: Resource[Message]) -> list[Problem]:
        """A resource of that name that is not the lab's: it is not taken over, for then it would be pruned too."""
        try:
            there = self._api.get(self._path_of(resource.api_version, resource.key))
        except ApiRefused as e:
            if e.code == 404:
                return []
            raise
        owner = there["metadata"].get("labels", {}).get(LAB_LABEL)
        whose = f"lab {owner}'s" if owner else "not made by a lab"
        where = resource.locate("metadata", "name")
        return [
            Problem(where, f"{resource.key} is in the cluster already, {whose}", "rename it, or delete that one")
        ]

    def _apply(self, resource: Resource[Message], *, dry_run: bool) -> dict[str, Any]:
        manifest = resource.to_plain()
        metadata = manifest["metadata"]
        metadata["labels"] = {**metadata.get("labels", {}), LAB_LABEL: self._lab}
        path = self._path_of(resource.api_version, resource.key)
        return self._api.apply(path, manifest, dry_run=dry_run)

    def _path_of(self, api_version: str, key: Key) -> str:
        return self._api.path(api_version, key.kind, key.namespace, key.name)

    def _as_given(self, value: Mapping[str, Any]) -> dict[str, Any]:
        there = value["metadata"]
        labels = {k: v for k, v in there.get("labels", {}).items() if k != LAB_LABEL}
        metadata = {"name": there["name"]} | ({"namespace": there["namespace"]} if "namespace" in there else {})
        metadata |= {"labels": labels} if labels else {}
        metadata |= {"annotations": there["annotations"]} if there.get("annotations") else {}
        kept = {"apiVersion": value["apiVersion"], "kind": value["kind"], "metadata": metadata}
        return kept | ({"spec": value["spec"]} if value.get("spec") else {})


def _rank(kind: str) -> int:
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)


def _content(value: Mapping[str, Any]) -> tuple[object, ...]:
    metadata = value["metadata"]
    return value.get("spec") or {}, metadata.get("labels") or {}, metadata.get("annotations") or {}


def _is_about_it(refused: ApiRefused) -> bool:
    """Whether the API judged the resource: not when it lets nobody in, has no time or reaches no webhook."""
    judged = refused.code in (400, 409, 422) or "denied the request" in refused.message
    return judged or bool(refused.causes or _UNTYPED.search(refused.message))


def _located(resource: Resource[Message], refused: ApiRefused) -> list[Problem]:
    """The API's causes as problems at their places in the resource's file."""
    untyped = tuple(Cause(field, message) for field, message in _UNTYPED.findall(refused.message))
    # one without a field only adds that other rules were left out
    causes = tuple(c for c in refused.causes if c.field) or refused.causes or untyped
    if not causes:
        where = resource.locate("metadata", "name")
        return [Problem(where, f"the cluster refuses it: {_without_preface(refused.message)}")]
    return [Problem(resource.locate(*_path(c.field)), f"the cluster refuses it: {c.message}") for c in causes]


def _without_preface(message: str) -> str:
    # admission webhook "validation.istio.io" denied the request: configuration is invalid: ...
    return message.partition("denied the request: ")[2] or message


def _path(field: str) -> Path:
    """``spec.http[0].route`` as a path; a key with dots in it ends the path at what is before it."""
    path: list[str | int] = []
    for part in re.findall(r"[^.\[\]]+|\[[^\]]*\]", field):
        inner = part.strip("[]")
        path.append(int(inner) if part.startswith("[") and inner.isdigit() else inner)
    return tuple(path)
