"""What ``explain`` says of a request is what live Envoys do with it: random requests over random resources."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import MeshHarness
from random_mesh import INVENTORY, Job, Random

from testbed.compiler import compile_mesh
from testbed.compiler.simulator import Explanation, SimulatedRequest, Simulator

CLIENT = Path(__file__).with_name("security_client.py")
SEED = int(os.environ.get("TESTBED_SEED", "20260101"))
ROUNDS = int(os.environ.get("TESTBED_ROUNDS", "20"))
REQUESTS = 50


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    with MeshHarness.from_inventory(INVENTORY) as running:
        yield running


@pytest.mark.slow
def test_explain_and_live_envoys_agree(
    mesh: MeshHarness, record_testsuite_property: Callable[[str, object], None]
) -> None:
    wrong: list[str] = []
    seen: Counter[str] = Counter()
    for number in range(ROUNDS):
        draw = Random(SEED + number, time.time())
        text = draw.manifests()
        resources = mesh.resources(text)
        mesh.apply(resources)
        simulator = Simulator(compile_mesh(resources, mesh.topology), mesh.topology, resources)
        jobs = [draw.job() for _ in range(REQUESTS)]
        for job, answer in zip(jobs, _send(mesh, jobs), strict=True):
            told = simulator.explain(_simulated(mesh, job))
            seen[str(answer["status"])] += 1
            if not _agree(told, answer):
                wrong.append(
                    f"seed {SEED + number}: {job}\n  answered {_short(answer)}\n  " + "\n  ".join(told.lines())
                )
    record_testsuite_property("agreement", f"{ROUNDS * REQUESTS} requests, {len(wrong)} differ; {dict(seen)}")
    assert not wrong, "\n".join(wrong[:20])
    # a test of nothing but 200 (or nothing but 403) would prove little
    assert {"200", "401", "403", "404", "503"} <= set(seen), seen
    assert seen["200"] >= ROUNDS * REQUESTS / 10


def _send(mesh: MeshHarness, jobs: list[Job]) -> list[dict]:
    """Answers in the order of the jobs; a gateway is asked from alpha, past its sidecar."""
    answers: dict[int, dict] = {}
    for caller in sorted({j.caller for j in jobs}):
        mine = [(n, j) for n, j in enumerate(jobs) if j.caller == caller]
        body = [{"url": j.url, "method": j.method, "headers": j.headers} for _, j in mine]
        workload, user = caller, 0
        if caller == "front":
            workload, user = "alpha-v1", 1337
            for one in body:
                one["connect"] = str(mesh.topology.workload("front").address)
        argv = [sys.executable, "-ISE", str(CLIENT)]
        found = json.loads(mesh.command(workload, argv, stdin=json.dumps(body).encode(), user=user))
        answers |= {n: answer for (n, _), answer in zip(mine, found, strict=True)}
    return [answers[n] for n in range(len(jobs))]


def _simulated(mesh: MeshHarness, job: Job) -> SimulatedRequest:
    outside = str(mesh.topology.workload("alpha-v1").address)
    return SimulatedRequest(job.caller, job.url, job.method, job.headers, time.time(), outside)


def _agree(told: Explanation, answer: dict) -> bool:
    said = answer["said"]
    if said is not None and "workload" in said and not said["path"]:
        return said["workload"] in told.workloads()  # TCP
    if said is not None and "workload" in said:
        # the program answered: which one, and what path it was sent (Python's server folds slashes at the start)
        reasons = [o.reason.replace(" //", " /") for o in told.outcomes if o.workload == said["workload"]]
        return any(f" {said['path']} " in reason for reason in reasons)
    return answer["status"] in told.statuses()


def _short(answer: dict) -> str:
    said = answer["said"] or {}
    return f"{answer['status']} {answer.get('error', '')} {said.get('workload', '')} {said.get('path', '')}"
