"""From one revision of Istio to another: who is waited for, and what is removed when."""

import json
import threading

import pytest
from fake_api import serving
from fake_mesh import pod

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.revisions import parts
from testbed.errors import BadInput, WaitTimeout
from testbed.guests import Completed
from testbed.host.directories import testbed_home as home
from testbed.host.namespaces import HostNetwork
from testbed.lab.lab import Lab
from testbed.model.reading import read_inventory
from testbed.pki import LabCa
from testbed.plan import ObservedLab
from testbed.workflows import istio, kubernetes, planning, upgrading

OLD, NEW = "1-30-4", "1-31-0"


class Node:
    """Answers each address's questions from ``says``: address -> path -> what, or a tuple of it in turn."""

    def __init__(self, says, after):
        self.says, self.after = says, after

    def run(self, argv, **options):
        address, _, _, *requests = argv[4:]
        path = requests[0].split()[1]
        answer = self.says[address][path]
        if isinstance(answer, tuple):
            answer, *later = answer
            self.says[address][path] = tuple(later) or answer
        self.after(address, path)
        return Completed(0, b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(answer).encode() + b"\0", b"")


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as api:
        for i, revision in enumerate((OLD, NEW)):
            labels = {"app": "istiod", "istio.io/rev": revision}
            pod(api, f"istiod-{revision}", labels, f"10.42.0.{i + 3}", namespace="istio-system", node="server")
            settings(api, revision)
        yield api


def settings(api, revision):
    labels = {"istio.io/rev": revision, "operator.istio.io/component": "Pilot"}
    path = f"/api/v1/namespaces/istio-system/configmaps/istio-{revision}"
    api.objects[path] = {"metadata": {"name": f"istio-{revision}", "namespace": "istio-system", "labels": labels}}


@pytest.fixture
def lab(server, monkeypatch):
    text = (home() / "inventories" / "k3s-small.yaml").read_text().replace("mesh:\n", "mesh:\n  version: 1.31.0\n")
    made = Lab(read_inventory(text, "k3s-small"), "k3s-small")
    made.says, made.asked = {}, []
    made.connection = lambda name: Node(made.says, lambda *asked: made.asked.append((name, *asked)))
    monkeypatch.setattr(upgrading, "api_of", lambda _: KubeApi(server.access, HostNetwork().dial, 10))
    wait = kubernetes.wait_until
    monkeypatch.setattr(kubernetes, "wait_until", lambda *a, **k: wait(*a, **{**k, "interval": 0.01}))
    return made


def connected(*names):
    return [{"proxy": n, "resources": {}} for n in names]


def ends(server):
    """The second time that it is asked for, the old istiod's pod is gone."""
    server.looks = getattr(server, "looks", 0) + 1
    if server.looks == 2:
        assert [w[1] for w in server.writes()] == [p.name for p in parts(OLD)[0]], "its rights are still there"
        del server.objects[f"/api/v1/namespaces/istio-system/pods/istiod-{OLD}"]


def test_a_revision_is_removed_once_no_proxy_is_connected_to_it(server, lab, monkeypatch):
    lab.says["10.42.0.3"] = {"/debug/syncz": (connected("a.default", "b.default"), connected("b.default"), [])}
    there = upgrading._ended
    monkeypatch.setattr(upgrading, "_ended", lambda *its: (ends(server), there(*its)))
    upgrading.retire_control_planes(lab, threading.Event())
    first, rest = parts(OLD)
    assert server.writes() == [("DELETE", p.name) for p in (*first, *rest)]
    assert len(lab.asked) == 3 and set(lab.asked) == {("server", "10.42.0.3", "/debug/syncz")}
    assert f"/api/v1/namespaces/istio-system/configmaps/istio-{NEW}" in server.objects


def test_a_revision_that_still_serves_is_kept_and_those_it_serves_are_named(server, lab, monkeypatch):
    monkeypatch.setattr(upgrading, "UNUSED_LIMIT", 0.5)
    lab.says["10.42.0.3"] = {"/debug/syncz": connected("mine.own", "echo-v1.default")}
    with pytest.raises(WaitTimeout, match=r"connected: echo-v1\.default, mine\.own") as caught:
        upgrading.retire_control_planes(lab, threading.Event())
    assert caught.value.next_step == f"label your own pods istio.io/rev={NEW}, then run: testbed up"
    assert server.writes() == []


def test_one_whose_istiod_does_not_run_serves_nobody(server, lab):
    del server.objects[f"/api/v1/namespaces/istio-system/pods/istiod-{OLD}"]
    upgrading.retire_control_planes(lab, threading.Event())
    assert len(server.writes()) == sum(map(len, parts(OLD)))
    server.asked.clear()
    upgrading.retire_control_planes(lab, threading.Event())
    assert server.writes() == []


def info(uptime, state="LIVE"):
    return {"state": state, "uptime_all_epochs": f"{uptime}s"}


def test_a_restarted_sidecar_is_waited_for_until_the_new_istiod_serves_it(lab, server):
    workload = lab.topology.workload("echo-v2")
    where = str(workload.address)
    lab.says[where] = {"/server_info": (info(900), info(0, "INITIALIZING"), info(1))}
    lab.says["10.42.0.4"] = {"/debug/syncz": ([], connected("echo-v2.default"))}
    api = KubeApi(server.access, HostNetwork().dial, 10)
    upgrading.await_sidecar(lab, api, workload, upgrading.time.monotonic(), threading.Event())
    api.close()
    assert [a for _, a, _ in lab.asked] == [where] * 3 + ["10.42.0.4", where, "10.42.0.4"]


def test_a_version_too_far_away_is_bad_input_at_its_place_in_the_inventory(lab):
    with pytest.raises(
        BadInput, match=r"k3s-small: mesh\.version: Istio 1\.28\.1 is in the cluster: 1\.31\.0 is more"
    ):
        planning._require_upgradable(lab, ObservedLab(revisions=frozenset({"1-28-1"})))
    planning._require_upgradable(lab, ObservedLab(revisions=frozenset({OLD, NEW})))


@pytest.mark.parametrize(
    ("noted", "deployed"),
    [
        ({}, [["client-v1", "echo-v2"]]),
        ({"echo-v2": "1.31.0", "client-v1": "1.31.0"}, [["client-v1", "echo-v2"]]),
        ({"echo-v2": "1.30.4", "client-v1": "1.30.4"}, [["echo-v2"], "echo-v2 served", ["client-v1"], "client-v1 served"]),
        ({"echo-v2": "1.31.0", "client-v1": "1.30.4"}, [["client-v1"], "client-v1 served", ["echo-v2"]]),
    ],
    ids=["new machines", "same release", "another release", "interrupted"],
)  # fmt: skip
def test_sidecars_of_another_release_go_over_one_after_the_other(server, lab, monkeypatch, noted, deployed):
    done, ca = [], LabCa.create("lab")
    lab.connection = lambda name: Notes(noted)
    monkeypatch.setattr(istio, "api_of", lambda _: KubeApi(server.access, HostNetwork().dial, 10))
    monkeypatch.setattr(istio, "lab_ca", lambda _: ca)
    monkeypatch.setattr(
        istio, "deploy_units", lambda _, units: done.append(sorted(map(workload_of, units["machine"])))
    )
    monkeypatch.setattr(
        istio, "await_sidecar", lambda _, api, workload, *rest: done.append(f"{workload.name} served")
    )
    istio.deploy_sidecars(lab, ("machine",), threading.Event())
    assert done == deployed


class Notes:
    """A machine that has noted which release its sidecars are of."""

    def __init__(self, noted):
        self.noted = noted

    def run(self, argv, **options):
        return Completed(0, "".join(v for n, v in self.noted.items() if f"/{n}/" in argv[1]).encode(), b"")


def workload_of(unit):
    return unit["unit"].partition("@")[2].removesuffix(".service")
