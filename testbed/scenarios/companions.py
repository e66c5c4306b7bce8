"""Who else calls while a step's traffic runs: a service that is not concerned, and strangers at every instance."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from testbed.errors import TestbedError
from testbed.model.overtime import Isolation
from testbed.model.scenario import Step, Traffic
from testbed.scenarios.building import walk
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.requests import sender, traffic_spec
from testbed.traffic import Sample, send

STRANGERS = 1.0
"""Tries a second without a certificate, at all instances of the service together."""
STRANGERS_WAIT = 3.0
"""Seconds after which a stranger gives up."""
LATE = 60.0
"""Seconds that a companion may take longer than the traffic."""


@dataclass(frozen=True)
class Companion:
    """One more sender.  ``address``: an instance that it calls in place of whom its traffic names."""

    name: str
    when: Traffic
    into: list[Sample]
    address: str = ""

    def call(self, run: str, lab: LabUnderTest, over: threading.Event) -> None:
        """Send all of it, or what can be sent until it is ``over``."""
        count = max(1, int((self.when.duration or 0) * (self.when.rate or 1)))
        who, spec = sender(self.when, lab), traffic_spec(self.when, lab, run, count)
        if self.address:
            spec = replace(spec, address=self.address)
        with send(spec, who.at, who.argv) as samples:
            for sample in samples:
                self.into.append(sample)
                if over.is_set():
                    break


@contextmanager
def companions(step: Step, evidence: Evidence) -> Iterator[None]:
    """They call for as long as the block lasts; what went wrong with one is in the evidence's ``trouble``."""
    found = _companions(step, evidence)
    over = threading.Event()
    threads = [
        threading.Thread(target=_accompany, args=(one, f"{evidence.spec.run}{n}", evidence, over), daemon=True)
        for n, one in enumerate(found)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    except BaseException:
        over.set()
        raise
    finally:
        until = time.monotonic() + LATE
        for one, thread in zip(found, threads, strict=True):
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                over.set()
                evidence.trouble.append(f"{one.name} had not ended {LATE:g} s after the traffic")


def _companions(step: Step, evidence: Evidence) -> list[Companion]:
    expected = dict(walk(step.expect))
    found: list[Companion] = []
    other: Isolation | None = expected.get("isolation")
    if other is not None:
        change = {"service": other.service, "path": other.path, "rate": other.rate}
        found.append(
            Companion(f"who calls {other.service}", step.when.model_copy(update=change), evidence.bystanders)
        )
    if "invariants" in expected and expected["invariants"].stranger:
        instances = evidence.lab.of_service(step.when.service or "")
        rate = STRANGERS / max(1, len(instances))
        change = {"mesh": False, "rate": rate, "timeout": STRANGERS_WAIT, "connections": "new"}
        when = step.when.model_copy(update=change)
        for instance in instances:
            into = evidence.strangers.setdefault(instance.name, [])
            at = str(evidence.lab.backend.reached_at(instance.name))
            found.append(Companion(f"the stranger at {instance.name}", when, into, at))
    return found


def _accompany(one: Companion, run: str, evidence: Evidence, over: threading.Event) -> None:
    try:
        one.call(run, evidence.lab, over)
    except TestbedError as e:
        evidence.trouble.append(f"{one.name}: {e}")
    except Exception as e:  # noqa: BLE001 - a thread's end that nobody hears of would pass for silence
        evidence.trouble.append(f"{one.name}: {type(e).__name__}: {e}")
