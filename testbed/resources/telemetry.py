"""Telemetry: access logging; tracing and metrics are refused (see :mod:`testbed.resources.refused`)."""

from __future__ import annotations

from enum import StrEnum

from testbed.resources.values import Bool, LabelSelector, Message, PolicyTargetReference


class WorkloadMode(StrEnum):
    """Whether a setting is for what a proxy sends, what it gets, or both."""

    CLIENT_AND_SERVER = "CLIENT_AND_SERVER"
    CLIENT = "CLIENT"
    SERVER = "SERVER"


class LogSelector(Message):
    """The direction of traffic that is logged."""

    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER


class ProviderRef(Message):
    """A provider by its name in the mesh's configuration; ``envoy`` is the proxy's own log file."""

    name: str


class Filter(Message):
    """A CEL expression; what it is false for is not logged."""

    expression: str = ""


class AccessLogging(Message):
    """Access logs of the selected workloads."""

    match: LogSelector | None = None
    providers: tuple[ProviderRef, ...] = ()
    disabled: Bool | None = None
    filter: Filter | None = None


class Telemetry(Message):
    """What the selected workloads' proxies report."""

    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: tuple[PolicyTargetReference, ...] = ()
    access_logging: tuple[AccessLogging, ...] = ()
