"""Talking to the nodes of a mesh, on all of them at once: what they have, and what they are given."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from testbed.backends import looking
from testbed.backends.guest import Guest
from testbed.backends.push import NodeReport, NodeRequest, ProxyOutcome
from testbed.errors import TestbedError
from testbed.guests import NodeConnection, Program
from testbed.log import get
from testbed.model.topology import MeshWorkload, Topology

Result = TypeVar("Result")
Look = Callable[[str, Mapping[str, Any]], bytes]
"""Node, what is asked -> what the node says, as :mod:`~testbed.backends.looking` reads it."""
ReadLog = Callable[[str], str]
"""A workload's name -> what its proxy has logged."""


class Nodes:
    """The nodes that ``connections`` lead to, and which workloads each has."""

    def __init__(
        self,
        topology: Topology,
        connections: Mapping[str, NodeConnection],
        guest: Guest,
        log: ReadLog,
        *,
        look: Look | None,
        lasting: bool,
        wake: Callable[[str], None] | None,
    ) -> None:
        """See :class:`~testbed.backends.standalone.StandaloneBackend`."""
        self.workloads: dict[str, list[MeshWorkload]] = {}
        """Node -> its workloads; nodes without any are left out."""
        for workload in topology.workloads:
            self.workloads.setdefault(workload.node, []).append(workload)
        self._connections = connections
        self._guest = guest
        self._read_log = log
        self._look = look
        self._lasting = lasting
        self._wake = wake
        self._programs: dict[str, Program] = {}
        self._log = get("backends")

    def request(self, node: str, limit: float, addresses: Mapping[str, str] | None = None) -> NodeRequest:
        """A request about all workloads of the node that carries no files yet."""
        return NodeRequest.of(self._guest, node, self.workloads[node], limit, addresses)

    def report(self, node: str, *, all_there: bool = True, set_up: bool = False) -> NodeReport:
        """What the node has; see :func:`~testbed.backends.looking.read`.

        ``set_up``: it will be told next of workloads to set up, and may make ready for that.  Its proxies are told
        something after that in any case, so none is asked how it is before.
        """
        workloads = self.workloads[node]
        hosts = list(self.request(node, 0).hosts)
        about = (self._guest, workloads, hosts, self._guest.resources_of(node))
        if self._look is not None:
            said = self._look(node, looking.question_for_program(*about))
        elif self._lasting:
            question = {"do": "look", "set_up": set_up, **looking.question_for_program(*about)}
            said = str(json.loads(self._told(node, json.dumps(question).encode(), 60))).encode()
        else:
            said = self._connections[node].run(looking.question(*about), limit=60).stdout
        return looking.read(said, workloads, hosts, self._read_log, all_there=all_there)

    def woken(self, node: str, *, all_there: bool = True, set_up: bool = False) -> NodeReport:
        """The same; where a save that was killed has left services standing, once they have gone on."""
        report = self.report(node, all_there=all_there, set_up=set_up)
        if report.standing and self._wake is not None:
            self._wake(node)
            report = self.report(node, all_there=all_there, set_up=set_up)
        return report

    def push(self, node: str, request: NodeRequest, limit: float) -> Mapping[str, ProxyOutcome]:
        """Give the node's proxies their files; returns when all is in force, or what is not."""
        argv, line = [*self._guest.tool, "apply"], request.encode()
        if self._lasting:
            return ProxyOutcome.decode(self._told(node, line, limit + 60))
        return ProxyOutcome.decode(self._connections[node].run(argv, stdin=line, limit=limit + 60).stdout)

    def roll_back(self, outcomes: Mapping[str, ProxyOutcome]) -> None:
        """Give the proxies that took the new revision their old one; those that refused it have gone back."""
        nodes = [node for node, workloads in self.workloads.items() if any(w.name in outcomes for w in workloads)]

        def back(node: str) -> None:
            workloads = [w for w in self.workloads[node] if w.name in outcomes and not outcomes[w.name].trouble]
            request = NodeRequest.of(self._guest, node, workloads, 30)
            self._connections[node].run([*self._guest.tool, "rollback"], stdin=request.encode(), limit=90)

        _, failed = self.each(nodes, back)
        for node, error in failed.items():
            self._log.error("rollback failed", node=node, error=str(error))

    def each(
        self, nodes: Iterable[str], work: Callable[[str], Result]
    ) -> tuple[dict[str, Result], dict[str, TestbedError]]:
        """``work`` on every node at once; what it returned, and what went wrong, by node."""
        results: dict[str, Result] = {}
        failed: dict[str, TestbedError] = {}
        names = sorted(nodes)
        with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
            for name, future in [(n, pool.submit(work, n)) for n in names]:
                try:
                    results[name] = future.result()
                except TestbedError as e:
                    failed[name] = e
        return results, failed

    def all(self, nodes: Collection[str], work: Callable[[str], Result]) -> dict[str, Result]:
        """:meth:`each`, of which the first error is raised."""
        results, failed = self.each(nodes, work)
        if failed:
            raise next(iter(failed.values()))
        return results

    def _told(self, node: str, line: bytes, limit: float) -> bytes:
        """The answer of the program that is kept on the node; it is started where there is none."""
        program = self._programs.pop(node, None)
        if program is None or not program.alive:  # ended with its machine, or with a connection that broke
            program = self._connections[node].start([*self._guest.tool, "apply"])
        answer = program.ask(line, limit)
        self._programs[node] = program
        return answer
