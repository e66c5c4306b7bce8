"""What a node prints of its proxies, read without a node."""

from __future__ import annotations

import json
from ipaddress import IPv4Address

import pytest

from testbed.backends.answers import Answer
from testbed.backends.looking import read
from testbed.backends.push import NodeReport
from testbed.errors import LabError
from testbed.model.topology import MeshWorkload

WEB = MeshWorkload("web-v1", "default", "web-v1", {}, IPv4Address("10.0.0.1"), "node-1")
MANIFEST = {
    "revision": "r1",
    "files": {"bootstrap.json": ["b1", ""], "cds.json": ["c1", ""], "sds/default.json": ["s1", "default"]},
    "refused": {},
}
LIVE = 'cluster_manager.cds.version_text: "c1"\nserver.state: 0\n'
LOG = "[1][warning] Filesystem config update rejected: the cluster is bad\n[1][info] more\n"


def printed(
    manifest: object = MANIFEST, stats: str | None = LIVE, there: str = "there", chain: str = "CHAIN\\n"
) -> bytes:
    answer = "" if stats is None else f"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{stats}"
    hosts = "127.0.0.1 localhost\n# testbed: services\n240.240.0.1 web\n# testbed: end\n"
    secret = ["default.json", f': {{"inline_string": "{chain}"', ""]
    texts = ["applied\n", hosts, json.dumps(manifest) if manifest else "", *secret, there, answer]
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
