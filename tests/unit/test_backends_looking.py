"""What a node prints of its proxies, read without a node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from testbed.backends.answers import Answer
from testbed.backends.guest import Guest
from testbed.backends.looking import question, read
from testbed.backends.nodes import Nodes
from testbed.backends.push import NodeReport
from testbed.errors import LabError
from testbed.guests import Completed
from testbed.model.topology import MeshWorkload, Topology

WEB = MeshWorkload("web-v1", "default", "web-v1", {}, IPv4Address("10.0.0.1"), "node-1")
MANIFEST = {
    "revision": "r1",
    "files": {"bootstrap.json": ["b1", ""], "cds.json": ["c1", ""], "sds/default.json": ["s1", "default"]},
    "refused": {},
}
LIVE = 'cluster_manager.cds.version_text: "c1"\nserver.state: 0\n'
LOG = "[1][warning] Filesystem config update rejected: the cluster is bad\n[1][info] more\n"


def printed(
    manifest: object = MANIFEST,
    stats: str | None = LIVE,
    there: str = "there",
    chain: str = "CHAIN\\n",
    standing: str = "",
) -> bytes:
    answer = "" if stats is None else f"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{stats}"
    hosts = "127.0.0.1 localhost\n# testbed: services\n240.240.0.1 web\n# testbed: end\n"
    secret = ["default.json", f': {{"inline_string": "{chain}"', ""]
    texts = ["applied\n", hosts, standing, json.dumps(manifest) if manifest else "", *secret, there, answer]
    return b"".join(t.encode() + b"\0" for t in texts)


def seen(said: bytes, log: str = "") -> NodeReport:
    return read(said, [WEB], ["/etc/hosts"], lambda _: log)


def test_a_node_tells_its_resources_its_names_and_what_its_proxies_have():
    report = seen(printed())
    proxy = report.proxies["web-v1"]
    assert (report.resources, report.hosts) == ("applied\n", {"/etc/hosts": "240.240.0.1 web\n"})
    assert proxy.in_force
    assert proxy.versions == {"bootstrap.json": "b1", "cds.json": "c1", "sds/default.json": "s1"}
    assert proxy.certificates == {"sds/default.json": "CHAIN\n"}


@pytest.mark.parametrize(
    "stats",
    [
        LIVE.replace("c1", "c0"),
        LIVE.replace("state: 0", "state: 3"),
        LIVE + "cluster.x.warming_state: 1\n",
        LIVE + "listener_manager.total_listeners_draining: 1\n",
        LIVE + "cluster_manager.cds.update_rejected: 1\n",
        None,
    ],
    ids=["behind", "starting", "warming", "draining", "rejected", "not-answering"],
)
def test_in_force_means_taken_up_warm_drained_and_nothing_rejected(stats):
    proxy = seen(printed(stats=stats), LOG).proxies["web-v1"]
    assert not proxy.in_force
    assert "web-v1: in force" not in proxy.state("web-v1").summary


def test_a_refusal_says_why_and_one_from_before_the_last_push_does_not_count():
    refused = LIVE + "cluster_manager.cds.update_rejected: 3\n"
    assert seen(printed(stats=refused), LOG).proxies["web-v1"].rejected == {"cds.json": "the cluster is bad"}
    known = {**MANIFEST, "refused": {"cluster_manager.cds": 3}}
    assert seen(printed(known, refused), LOG).proxies["web-v1"].in_force
    assert Answer(refused).refusals("cds.json", "", {"cluster_manager.cds": 5}) == 3  # the proxy began anew


def test_a_proxy_that_was_given_nothing_yet_has_nothing():
    proxy = seen(printed(manifest=None)).proxies["web-v1"]
    assert (proxy.revision, proxy.versions, proxy.certificates) == ("", {}, {})


def test_what_cant_be_read_is_a_lab_error():
    with pytest.raises(LabError, match="web-v1: read the proxy's state: there is no such namespace"):
        seen(printed(there=""))
    with pytest.raises(LabError, match="node-1: read its state: the answer is cut short"):
        seen(b"applied\n\0")


def test_a_workload_that_is_yet_to_be_set_up_has_no_namespace_and_nothing_else():
    said = printed(manifest=None, there="", stats=None)
    proxy = read(said, [WEB], ["/etc/hosts"], lambda _: "", all_there=False).proxies["web-v1"]
    assert (proxy.revision, proxy.in_force) == ("", False)


class Standing:
    """A node whose services a save has left standing, until somebody wakes it."""

    node = "node-1"

    def __init__(self, standing: bool) -> None:
        self.standing = standing
        self.asked: list[str] = []

    def run(self, argv: Sequence[str], **_: object) -> Completed:
        self.asked.append(argv[0])
        return Completed(0, printed(stats=None if self.standing else LIVE, standing="1\n" * self.standing), b"")

    def wake(self, node: str) -> None:
        self.asked.append(f"wake {node}")
        self.standing = False


@pytest.mark.parametrize("standing", [True, False])
def test_services_that_a_killed_save_left_standing_are_woken_and_others_left_alone(standing: bool) -> None:
    node = Standing(standing)
    nodes = Nodes(
        Topology((), (WEB,), service_range=IPv4Network("240.240.0.0/16")),
        {"node-1": node},  # type: ignore[dict-item]  # it only runs what it is given
        Guest(),
        lambda _: "",
        look=None,
        lasting=False,
        wake=node.wake,
    )
    report = nodes.woken("node-1")
    assert node.asked == (["bash", "wake node-1", "bash"] if standing else ["bash"])
    assert report.proxies["web-v1"].in_force and not report.standing


def test_proxies_that_stand_still_are_not_asked(tmp_path: Path) -> None:
    """They would answer nobody, and each question would take its whole limit."""
    guest = Guest(standing=str(tmp_path / "standing"))
    (tmp_path / "standing").write_text("1\n")
    shell = ["bash", "-c", "nsenter() { touch " + str(tmp_path / "asked") + "; }; export -f nsenter; "]
    argv = question(guest, [WEB], [], str(tmp_path))
    shell[-1] += argv[-1].replace("timeout 10 nsenter", "nsenter")
    said = subprocess.run(shell, capture_output=True, check=True).stdout
    assert not (tmp_path / "asked").exists()
    assert said.split(b"\0")[1] == b"1\n"
    (tmp_path / "standing").unlink()
    subprocess.run(shell, capture_output=True, check=True)
    assert (tmp_path / "asked").exists()
