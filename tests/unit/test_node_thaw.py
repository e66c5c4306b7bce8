"""What a node's thaw finds in pods, with other folders than on a node."""

import importlib.util
import shutil
import subprocess
import sys

import pytest

from testbed.host.directories import testbed_home as home

PROGRAM = home() / "images" / "shared" / "node" / "testbed_thaw.py"


@pytest.fixture
def thaw(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(PROGRAM.parent), *sys.path])
    spec = importlib.util.spec_from_file_location("testbed_thaw", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    groups = tmp_path / "kubepods.slice"
    monkeypatch.setattr(module, "PODS", [str(groups), str(tmp_path / "kubepods")])
    monkeypatch.setattr(module, "SLICES", [str(groups)])
    monkeypatch.setattr(module, "SIDECARS", str(tmp_path / "none"))
    return module


@pytest.fixture
def pods(tmp_path):
    """Processes in the groups of two pods: an Envoy in each, and somebody else."""
    running = []
    for name, place in (("envoy", "burstable/pod-a/one"), ("envoy", "pod-b/two"), ("python3", "pod-b/two")):
        program = tmp_path / name
        if not program.exists():
            shutil.copy("/bin/sleep", program)
        running.append(subprocess.Popen([program, "300"]))
        group = tmp_path / "kubepods.slice" / place
        group.mkdir(parents=True, exist_ok=True)
        with (group / "cgroup.procs").open("a") as file:
            file.write(f"{running[-1].pid}\n")
    (tmp_path / "kubepods.slice" / "cgroup.procs").write_text("")
    yield running
    for child in running:
        child.kill()
        child.wait()


def test_proxies_are_found_in_whatever_group_their_pod_has(thaw, pods):
    assert sorted(thaw.in_pods("envoy")) == sorted(str(child.pid) for child in pods[:2])


def test_a_proxy_that_does_not_notice_a_fork_is_one_to_end(thaw, pods):
    found = dict(thaw.generators())
    assert set(found) == {str(child.pid) for child in pods[:2]}
    assert thaw.reseed(thaw.generators()) == list(found), "sleep has no such page"


def test_a_node_without_pods_has_none(thaw):
    assert list(thaw.in_pods("envoy")) == []
    assert thaw.generators() == []


def test_a_proxy_that_can_not_be_seeded_is_ended_for_its_kubelet_to_start(thaw, pods, monkeypatch, tmp_path):
    for name in ("set_frozen", "set_clock", "seed", "wake"):
        monkeypatch.setattr(thaw, name, lambda *_: 0.0)
    monkeypatch.setattr(thaw, "everywhere", lambda work: 3)
    pages = [(str(pods[0].pid), []), ("4194304", [])]
    done = thaw.thaw({"time": 0.0, "entropy": "", "keep": 1}, pages)
    assert (done["seeded"], done["restarted"], done["closed"]) == (0, 2, 3)
    assert pods[0].wait(timeout=5) == -9
    assert pods[1].poll() is None


def test_a_namespaces_second_name_is_left_out(thaw, monkeypatch, tmp_path):
    names = tmp_path / "netns"
    names.mkdir()
    (names / "echo-v1").symlink_to(names / "cni-gone")
    monkeypatch.setattr(thaw.glob, "glob", lambda pattern: [str(p) for p in names.iterdir()])
    assert thaw.everywhere(lambda: 1) == 1, "the node's own alone; a link that leads nowhere is no error"
