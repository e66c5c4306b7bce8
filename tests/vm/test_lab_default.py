"""The default lab, as its users meet it.  These tests run in the order of this file, on one lab."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from commands import COMMAND, cli, left_behind

from testbed.host import processes
from testbed.host.directories import LabDirectories

GATEWAY = "http://127.0.0.1:18080"

SHIFTED = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
    - route:
        - {destination: {host: reviews, subset: v1}, weight: 70}
        - {destination: {host: reviews, subset: v2}, weight: 30}
"""

OLD_EXPECTATION = """\
name: what-was-promised-before
description: What the resources said before they were changed.
promise: Half of the calls to reviews are answered by v1 and half by v2, none by v3.
when: {from: client, service: reviews, path: /reviews/0}
expect:
  split: {service: reviews, weights: {v1: 50, v2: 50, v3: 0}, tolerance: 10}
"""


def get(path, **headers):
    request = urllib.request.Request(GATEWAY + path, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, dict(answer.headers), answer.read().decode()


def test_up_ends_with_a_mesh_that_proved_its_first_promise(bookinfo):
    assert bookinfo["verdict"] == "PASS"
    assert bookinfo["urls"] == {"ingressgateway": f"{GATEWAY}/"}


def test_every_node_answers_and_every_proxy_is_in_force(bookinfo):
    status = json.loads(cli("status", "--json"))
    assert status["healthy"]
    assert len(status["nodes"]) == 6
    assert len(status["proxies"]) == 11


def test_up_again_changes_nothing_and_says_so(bookinfo):
    """How long it takes is for ``benchmarks/up.py``: on a shared host a single run measures its neighbours too."""
    assert "nothing to do" in cli("up", limit=10)


def test_plan_has_nothing_to_do(bookinfo):
    cli("plan", "--detailed-exitcode")


def test_the_page_names_who_answered(bookinfo):
    status, headers, body = get("/productpage")
    assert status == 200
    assert headers["x-instance"] in ("productpage-v1", "productpage-v2")
    assert re.search(r"reviews-v[12]", body)
    assert "details-v1" in body


def test_login_and_logout_have_services_of_their_own(bookinfo):
    assert get("/login")[1]["x-service"] == "login"
    assert get("/logout", Accept="application/json")[1]["x-service"] == "logout"


def test_a_browser_shows_the_page(bookinfo, tmp_path):
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=5000"]
    dom = subprocess.run(
        ["chromium", *flags, "--dump-dom", f"{GATEWAY}/productpage"],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert "The Comedy of Errors" in dom.stdout
    assert "Book reviews" in dom.stdout


def test_an_unsure_reader_sees_the_difference_first_and_changes_nothing(bookinfo, tmp_path):
    file = tmp_path / "reviews.yaml"
    file.write_text(SHIFTED)
    shown = cli("apply", "--diff", str(file))
    assert "+      weight: 70" in shown or "weight: 70" in shown
    assert "weight: 70" not in cli("applied")


def test_changed_weights_are_in_force_without_a_restart_and_fail_the_old_expectation(bookinfo, tmp_path):
    before = cli("ssh", "client", "--", "systemctl", "show", "-p", "MainPID", "testbed-sidecar@client-v1")
    file, old = tmp_path / "reviews.yaml", tmp_path / "old.yaml"
    file.write_text(SHIFTED)
    old.write_text(OLD_EXPECTATION)
    try:
        applied = json.loads(cli("apply", str(file), "--json"))
        assert "client-v1" in applied["changed"]
        assert all(path.startswith("rds/") for paths in applied["changed"].values() for path in paths)
        [verdict] = json.loads(_verify(1, str(old)))
        assert verdict["verdict"] == "FAIL"
    finally:
        cli("up", "--no-verify")
    assert before == cli("ssh", "client", "--", "systemctl", "show", "-p", "MainPID", "testbed-sidecar@client-v1")
    [verdict] = json.loads(_verify(0, str(old)))
    assert verdict["verdict"] == "PASS"


def _verify(code, *arguments):
    done = subprocess.run(
        [*COMMAND, "verify", "--json", *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout


def test_the_other_promise_holds_through_the_gateway(bookinfo):
    [verdict] = json.loads(_verify(0, "productpage-weights"))
    assert verdict["verdict"] == "PASS"


def test_mutual_tls_is_seen_on_a_tap_where_plaintext_was_seen_before(bookinfo, tmp_path):
    [verdict] = json.loads(_verify(0, "mtls", "--evidence", str(tmp_path)))
    assert verdict["verdict"] == "PASS", verdict["reason"]
    [record] = json.loads((Path(verdict["evidence"]) / "result.json").read_text())
    control, encrypted, _ = [step["verdict"] for step in record["steps"]]
    assert "the marker is seen on the wire" in control["reason"]
    assert {p["name"]: p["outcome"] for p in encrypted["parts"]}["encrypted"] == "PASS"


def test_a_machine_that_dies_is_missed_and_up_brings_it_back(bookinfo):
    found = processes.of_lab(LabDirectories("bookinfo").state)
    [machine] = [
        p for p in found if p.name.startswith("qemu-") and "guest=bookinfo-app-4," in " ".join(p.arguments)
    ]
    subprocess.run(["kill", "-9", str(machine.pid)], check=True)
    status = _status()
    assert not status["healthy"]
    assert not status["nodes"]["app-4"]["running"]
    assert "is shut off" in cli("ssh", "app-4", "--", "true", code=1)
    steps = {s["name"] for s in json.loads(cli("plan", "--json"))}
    assert {"start:app-4", "boot:app-4"} <= steps
    assert "create:app-4" not in steps
    cli("up", "--no-verify")
    assert _status()["healthy"]


def _status():
    done = subprocess.run([*COMMAND, "status", "--json"], capture_output=True, text=True, timeout=60, check=False)
    return json.loads(done.stdout)


def test_a_night_off_changes_no_identity(bookinfo):
    before = cli("ssh", "app-1", "--", "cat", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub")
    cli("stop")
    assert not _status()["healthy"]
    cli("start")
    assert before == cli("ssh", "app-1", "--", "cat", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub")
    assert _status()["healthy"]
    assert get("/productpage")[0] == 200


def test_other_programs_reach_a_node_by_the_exported_configuration(bookinfo, tmp_path):
    config = tmp_path / "config"
    config.write_text(cli("export", "ssh-config"))
    done = subprocess.run(
        ["ssh", "-F", str(config), "app-2", "hostname"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "app-2\n"
    assert "ansible_user=root" in cli("export", "ansible-inventory")


def test_the_machines_fit_into_8_gib(bookinfo):
    machines = [p for p in processes.of_lab(LabDirectories("bookinfo").state) if p.name.startswith("qemu-")]
    resident = 0
    for machine in machines:
        status = Path(f"/proc/{machine.pid}/status").read_text()
        resident += int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024
    assert len(machines) == 6
    assert resident < 7 * 2**30


def test_down_leaves_nothing_and_takes_less_than_ten_seconds(bookinfo):
    began = time.monotonic()
    cli("down")
    assert time.monotonic() - began < 10
    assert left_behind("bookinfo") == []
    assert "nothing was there" in cli("down")
