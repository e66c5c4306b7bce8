"""A fault as written down: what is broken, where, how, when and for how long."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from testbed.model.durations import Duration, SignedDuration


class FaultKind(StrEnum):
    """What can be broken.  The reference page says how each is done and how it proves itself."""

    FREEZE = "freeze"
    POWER_OFF = "power-off"
    RESET = "reset"
    CRASH = "crash"
    RESTART = "restart"
    LINK_DOWN = "link-down"
    LINK_FLAP = "link-flap"
    PARTITION = "partition"
    SLOW_LINK = "slow-link"
    DISK_STALL = "disk-stall"
    DISK_SLOW = "disk-slow"
    DISK_FULL = "disk-full"
    DISK_ERRORS = "disk-errors"
    MEMORY = "memory-pressure"
    CPU = "cpu-starvation"
    CLOCK = "clock-jump"
    CLOCK_DRIFT = "clock-drift"
    SIDECAR_KILL = "sidecar-kill"
    SIDECAR_HANG = "sidecar-hang"
    SIDECAR_RESTART = "sidecar-restart"
    SERVICE_KILL = "service-kill"
    SERVICE_HANG = "service-hang"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_FOREIGN = "certificate-foreign"
    CERTIFICATE_ROTATED = "certificate-rotated"
    CONTROL_PLANE_KILL = "control-plane-kill"
    UPGRADE = "upgrade"

    @property
    def momentary(self) -> bool:
        """Whether it happens at one moment: there is nothing to undo, only its end to wait for."""
        return self in (
            FaultKind.RESET,
            FaultKind.RESTART,
            FaultKind.SIDECAR_RESTART,
            FaultKind.CERTIFICATE_ROTATED,
            FaultKind.UPGRADE,
        )

    @property
    def forgets(self) -> bool:
        """Whether the machine loses all that it knew, its connections among them, and tells nobody."""
        return self in (FaultKind.POWER_OFF, FaultKind.RESET, FaultKind.CRASH, FaultKind.DISK_ERRORS)

    @property
    def of_workload(self) -> bool:
        """Whether it hits one workload, not the machine that this is on."""
        return self.value.startswith(("sidecar-", "service-", "certificate-"))


OPTIONS: dict[str, tuple[FaultKind, ...]] = {
    "peer": (FaultKind.PARTITION,),
    "one_way": (FaultKind.PARTITION,),
    "port": (FaultKind.PARTITION,),
    "period": (FaultKind.LINK_FLAP,),
    **dict.fromkeys(("delay", "jitter", "loss", "duplicate", "reorder"), (FaultKind.SLOW_LINK,)),
    "both_ways": (FaultKind.SLOW_LINK,),
    "rate": (FaultKind.SLOW_LINK, FaultKind.DISK_SLOW),
    "leave": (FaultKind.MEMORY,),
    "by": (FaultKind.CLOCK,),
    "drift": (FaultKind.CLOCK_DRIFT,),
    "only": (FaultKind.PARTITION,),
    "drain": (FaultKind.RESTART,),
}
"""Field -> the kinds that have it."""


def _names(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Fault(BaseModel):
    """One fault.  ``target`` names nodes, workloads, services, ``service/version`` or zones; of control-plane-kill
    servers of the cluster, or all of them by the name ``istiod``; of upgrade the ``cluster``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    kind: FaultKind
    target: Annotated[Names, Field(min_length=1)]
    at: Duration = 0.0
    """So long after the traffic began.  Not used by hand."""
    alone: bool = False
    """Put off until all before it in the scenario are over and their machines well.  Not used by hand."""
    duration: Duration | None = Field(None, alias="for", gt=0)
    """How long it lasts; left out: until it is cleared, in a scenario until the traffic ends."""
    peer: Names | None = None
    """partition: the other side."""
    one_way: bool | None = Field(None, alias="oneWay")
    """partition: only what ``target`` sends to ``peer`` is lost."""
    port: int | None = Field(None, ge=1, le=65535)
    """partition: only what goes to this TCP port (and its answers)."""
    period: Duration | None = None
    """link-flap: half of it down, half of it up; 2 s when left out."""
    delay: Duration | None = None
    jitter: Duration | None = None
    loss: Percent | None = None
    duplicate: Percent | None = None
    reorder: Percent | None = None
    rate: int | None = Field(None, ge=1)
    """slow-link, disk-slow: KiB a second."""
    both_ways: bool | None = Field(None, alias="bothWays")
    """slow-link: what the machine is sent is shaped as well as what it sends."""
    leave: int | None = Field(None, ge=8)
    """memory-pressure: MiB that stay available on the machine; 48 when left out."""
    by: SignedDuration | None = None
    """clock-jump: how far."""
    drift: float | None = Field(None, ge=-10, le=10)
    """clock-drift: so many percent too fast, or too slow (the kernel's tick goes no further: adjtimex(2))."""
    only: Literal["dns", "control-plane"] | None = None
    """partition: cut off from that alone, in place of a peer."""
    drain: bool | None = None
    """restart: false goes down at once, which shows what draining is for."""

    @model_validator(mode="after")
    def _fits(self) -> Fault:
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        for name, kinds in OPTIONS.items():
            if name in given and self.kind not in kinds:
                raise ValueError(f"{self.kind} has no {type(self).model_fields[name].alias or name}")
        if self.kind is FaultKind.PARTITION and bool(self.peer) == bool(self.only):
            raise ValueError("a partition needs the other side: peer, or only")
        if self.kind is FaultKind.CLOCK_DRIFT and not self.drift:
            raise ValueError("a clock-drift needs how much: drift, in percent")
        if self.kind is FaultKind.CLOCK and not self.by:
            raise ValueError("a clock-jump needs how far: by")
        shaped = {"delay", "loss", "duplicate", "reorder", "rate"} & given
        if self.kind is FaultKind.SLOW_LINK and not shaped:
            raise ValueError("a slow-link needs delay, loss, duplicate, reorder or rate")
        if {"jitter", "reorder"} & given and "delay" not in given:
            raise ValueError("jitter and reorder need a delay")
        return self

    @property
    def title(self) -> str:
        """A few words for people."""
        words = [self.kind.value, ", ".join(self.target)]
        if self.peer:
            words += ["to" if self.one_way else "and", ", ".join(self.peer)]
        if self.only:
            words += ["and", self.only]
        numbers = (
            "port",
            "delay",
            "jitter",
            "loss",
            "duplicate",
            "reorder",
            "rate",
            "leave",
            "by",
            "period",
            "drift",
        )
        for name in numbers:
            value = getattr(self, name)
            if value is not None:
                unit = {"drift": "%", **dict.fromkeys(("delay", "jitter", "by", "period"), " s")}.get(name, "")
                words.append(f"{name} {value:g}{unit}")
        if self.both_ways:
            words.append("both ways")
        if self.drain is False:
            words.append("without a drain")
        return " ".join(words)
