"""What goes to a node and what comes back, without a node."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from ipaddress import IPv4Address

from testbed.backends.guest import Guest
from testbed.backends.names import hosts_lines
from testbed.backends.proxy_log import since
from testbed.backends.push import NodeReport, NodeRequest, ProxyOutcome, ProxyReport, Wanted
from testbed.backends.secrets import identity_file, roots_file
from testbed.model.proxy import XdsFile
from testbed.model.topology import MeshWorkload
from testbed.pki import LabCa


def workload(name: str, namespace: str = "default") -> MeshWorkload:
    return MeshWorkload(name, namespace, name, {}, IPv4Address("10.0.0.1"), "node-1")


ADDRESSES = {
    "web.shop.svc.cluster.local": "240.240.0.1",
    "web.default.svc.cluster.local": "240.240.0.2",
    "db.shop.svc.cluster.local": "240.240.0.3",
    "api.example.com": "240.240.1.1",
}
WORKLOADS = {w.name: w for w in (workload("web-v1"), workload("db-v1", "shop"))}


def request(*names: str, guest: Guest | None = None) -> NodeRequest:
    return NodeRequest.of(guest or Guest(), "node-1", [WORKLOADS[n] for n in names], 30, ADDRESSES)


def xds(path: str, version: str) -> XdsFile:
    return XdsFile(path, "", ("r",), version, b"{}")


def test_a_short_name_is_known_only_in_its_own_namespace():
    lines = hosts_lines(ADDRESSES, {"default"}).splitlines()
    assert lines[0] == "240.240.0.2 web.default.svc.cluster.local web.default.svc web.default web"
    assert lines[2] == "240.240.0.1 web.shop.svc.cluster.local web.shop.svc web.shop"


def test_a_short_name_in_two_namespaces_goes_to_the_first():
    lines = hosts_lines(ADDRESSES, {"default", "shop"}).splitlines()
    assert [line.split()[-1] for line in lines] == ["web", "db", "web.shop", "api.example.com"]


def test_workloads_that_share_a_hosts_file_share_its_lines():
    shared = request("web-v1", "db-v1").hosts
    assert list(shared) == ["/etc/hosts"]
    own = request("web-v1", "db-v1", guest=Guest(hosts="/etc/netns/{workload}/hosts")).hosts
    assert " web\n" in own["/etc/netns/web-v1/hosts"]
    assert " db\n" not in own["/etc/netns/web-v1/hosts"]


def test_only_files_that_the_proxy_lacks_carry_content():
    wanted = Wanted("r2", {f.path: f for f in (xds("cds.json", "c1"), xds("lds.json", "l2"))})
    had = ProxyReport(revision="r1", versions={"cds.json": "c1", "lds.json": "l1", "rds/80.json": "x"})
    report = NodeReport({"web-v1": had}, "", {})
    assert wanted.differing(had) == ("lds.json", "rds/80.json")
    sent = json.loads(request("web-v1", "db-v1").carrying({"web-v1": wanted}, report, "doc").encode())
    assert list(sent["workloads"]) == ["web-v1"]
    files = sent["workloads"]["web-v1"]["files"]
    assert files == {
        "cds.json": {"version": "c1", "resource": "r"},
        "lds.json": {"version": "l2", "resource": "r", "content": "{}"},
    }


def test_a_private_key_is_in_the_document_and_not_in_its_repr():
    credential = LabCa.create().issue("spiffe://x/ns/a/sa/b")
    file = identity_file(credential)
    loaded = request("web-v1").carrying(
        {"web-v1": Wanted("r", {file.path: file})}, NodeReport({"web-v1": ProxyReport()}, "", {}), ""
    )
    assert b"PRIVATE KEY" in loaded.encode()
    assert "PRIVATE KEY" not in repr(loaded)


def test_a_secrets_version_follows_the_certificate():
    ca = LabCa.create()
    first, second = (identity_file(ca.issue("spiffe://x/ns/a/sa/b")) for _ in range(2))
    assert first.version != second.version
    assert roots_file(ca.roots).version == roots_file(ca.roots).version


def test_an_outcome_says_which_file_was_refused_and_why():
    data = {"workloads": {"a": {"refused": {"rds/80.json": "unknown cluster"}, "back": True}}}
    outcome = ProxyOutcome.decode(json.dumps(data).encode())["a"]
    assert (outcome.verb, outcome.trouble) == ("rejected its configuration", "rds/80.json: unknown cluster")


def test_the_log_since_a_moment_keeps_lines_without_a_time():
    log = "[2026-05-01 12:00:00.000][1] old\n[2026-05-01 12:00:01.500][1] new\n  more of it\n"
    assert (
        since(log, datetime(2026, 5, 1, 12, 0, 1, tzinfo=UTC)) == "[2026-05-01 12:00:01.500][1] new\n  more of it\n"
    )
    assert since(log, datetime(2026, 5, 2, tzinfo=UTC)) == ""
    assert since(log, None) == log
