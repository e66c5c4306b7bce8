"""The sample programs behind the sidecars: what arrived at them, and how they are told to misbehave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from testbed.backends.answers import body_of
from testbed.backends.looking import exchange
from testbed.errors import LabError, TestbedError
from testbed.log import get
from testbed.model.scenario import Setting
from testbed.model.topology import MeshWorkload
from testbed.report.record import Arrival
from testbed.scenarios.lab import LabUnderTest
from testbed.waiting import NotYet, wait_until

CONTROL_PORT = 9901
KEPT = 20_000
"""So many requests a program remembers (``images/shared/programs/service.py``)."""


def ask(lab: LabUnderTest, workload: str, path: str, body: str | None = None) -> Any:
    """The answer of the program's control port, which listens on its namespace's loopback; ``body`` is posted.

    Raises LabError when there is none.
    """
    command = exchange(lab.guest, workload, CONTROL_PORT, path, body)
    said = lab.backend.connection(workload).run(command, limit=30).stdout
    try:
        if said.split(b" ", 2)[1:2] != [b"200"]:
            raise ValueError
        return json.loads(body_of(said))
    except ValueError:
        raise LabError(workload, f"ask its program for {path}", f"it said {said[:200]!r}") from None


class ArrivalLog:
    """Reads what arrived at programs; remembers how far it has read, so that each is asked for news only."""

    def __init__(self, lab: LabUnderTest) -> None:
        self._lab = lab
        self._read: dict[str, int] = {}

    def mark(self, workloads: Iterable[MeshWorkload]) -> None:
        """From here on; for programs that were never asked."""
        new = [w.name for w in workloads if w.name not in self._read]
        for name, answer in self._ask(new, lambda _: "/count").items():
            self._read[name] = int(answer["requests"])

    def news(self, workloads: Iterable[MeshWorkload], run: str) -> list[Arrival]:
        """What arrived since, of the run's requests.  Raises LabError when a program forgot some of it."""
        names = [w.name for w in workloads]
        arrivals: list[Arrival] = []
        for name, answer in self._ask(names, lambda n: f"/requests?since={self._read.get(n, 0)}").items():
            read = self._read.get(name, 0)
            entries = [e for e in answer["requests"] if e["number"] > read]
            if answer["last"] - read > len(entries):
                raise LabError(name, "read what arrived", f"more than {KEPT} requests since the last look")
            self._read[name] = int(answer["last"])
            arrivals += [
                Arrival(entry["id"], name, entry["number"], entry["status"])
                for entry in entries
                if str(entry["id"]).startswith(f"{run}-")
            ]
        return arrivals

    def settled_news(self, workloads: Sequence[MeshWorkload], run: str) -> list[Arrival]:
        """As :meth:`news`, once nothing new comes any more: mirrored copies and late retries lag behind."""
        found = self.news(workloads, run)

        def quiet() -> None:
            if more := self.news(workloads, run):
                found.extend(more)
                raise NotYet(f"{len(more)} more arrived")

        wait_until("the end of arrivals", quiet, limit=30, interval=0.5)
        return found

    def _ask(self, names: Sequence[str], path: Any) -> dict[str, Any]:
        if not names:
            return {}
        with ThreadPoolExecutor(len(names)) as pool:
            return dict(zip(names, pool.map(lambda n: ask(self._lab, n, path(n)), names), strict=True))


@contextmanager
def settings(lab: LabUnderTest, wanted: Mapping[str, Setting], left: list[str]) -> Iterator[None]:
    """Programs behave as told inside the context, and as always after it, whatever happens in between.

    Those that don't say afterwards that they do are added to ``left``.
    """
    told: list[str] = []
    try:
        for name, setting in wanted.items():
            found = lab.of_name(name)
            if not found:
                raise LabError(name, "tell its program how to behave", "the lab has no such workload or service")
            for workload in found:
                told.append(workload.name)
                ask(lab, workload.name, "/control", json.dumps({"reset": True, **_control(setting)}))
        yield
    finally:
        for name in told:
            try:
                answer = ask(lab, name, "/control", '{"reset": true}')
                if any(answer.values()):  # by default nothing is set
                    raise LabError(name, "put its settings back", f"it answers {answer}")
            except TestbedError as e:
                get("scenarios").error("settings not put back", workload=name, error=str(e))
                left.append(name)


def _control(setting: Setting) -> dict[str, object]:
    told: dict[str, object] = {"delay": setting.delay, "hang": setting.hang, "abort": setting.abort}
    if setting.fail is not None:
        told |= {"fail_rate": setting.fail / 100, "status": setting.status or 503}
    elif setting.status is not None:
        told["status"] = setting.status
    return told
