"""What policies mean, asked of live Envoys: the same cases that tests/unit asks of the simulator."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import security_cases
from harness import MeshHarness
from security_cases import Ask, Case

CLIENT = Path(__file__).with_name("security_client.py")


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    with MeshHarness.from_inventory(security_cases.inventory()) as running:
        yield running


def _ask(mesh: MeshHarness, caller: str, asks: list[tuple[str, Ask]]) -> list[dict]:
    jobs = [
        {"url": f"http://{server}.default:{a.port}{a.path}", "method": a.method, "headers": dict(a.headers)}
        for server, a in asks
    ]
    workload, user = ("alpha-v1", 1337) if caller == "plain" else (f"{caller}-v1", 0)
    if caller == "plain":
        for job, (server, ask) in zip(jobs, asks, strict=True):
            # past the sidecar nothing turns the service's address into the workload's
            target = {80: 8080, 81: 8081}[ask.port]
            address = mesh.topology.workload(f"{server}-v1").address
            job["url"] = f"http://{address}:{target}{ask.path}"
    answers = mesh.command(
        workload, [sys.executable, "-ISE", str(CLIENT)], stdin=json.dumps(jobs).encode(), user=user
    )
    return json.loads(answers)


@pytest.mark.parametrize("file", ["authorization.yaml", "tokens.yaml"])
def test_live_envoys_answer_as_the_cases_say(mesh: MeshHarness, file: str) -> None:
    addresses = {w.name.removesuffix("-v1"): str(w.address) for w in mesh.topology.workloads}
    wrong = []
    for batch in security_cases.batches(list(security_cases.cases(file, time.time()))):
        mesh.apply("\n---\n".join(case.manifests(server, addresses) for server, case in batch.items()))
        for caller in ("alpha", "beta", "plain"):
            asks = [(s, a) for s, case in batch.items() for a in case.asks if a.caller == caller]
            for (server, ask), answer in zip(asks, _ask(mesh, caller, asks), strict=True):
                wrong += _wrong(batch[server], ask, answer)
    assert not wrong, "\n".join(wrong)


def _wrong(case: Case, ask: Ask, answer: dict) -> Iterator[str]:
    if answer["status"] != ask.expect:
        yield f"{case.name}: {ask} was answered {answer['status']} {answer.get('error', '')}"
    elif ask.present or ask.absent:
        seen = dict(answer["said"]["headers"])
        for name, value in ask.present.items():
            if name not in seen or value not in (None, seen[name]):
                yield f"{case.name}: header {name} is {seen.get(name)!r}"
        yield from (f"{case.name}: header {name} reached the program" for name in ask.absent if name in seen)
