"""The guest's side of a push, as far as it needs no proxy."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "images/shared/node/testbed_xds.py"
spec = importlib.util.spec_from_file_location("testbed_xds", PROGRAM)
assert spec and spec.loader
xds = importlib.util.module_from_spec(spec)
spec.loader.exec_module(xds)

STATS = b"""\
cluster.outbound|80||a.b.version_text: "e1"
cluster_manager.cds.version_text: "c1"
http.outbound_0.0.0.0_80.rds.80.version_text: "r1"
cluster.outbound|80||a.b.warming_state: 1
cluster_manager.cds.update_attempt: 1
http.outbound_0.0.0.0_80.rds.80.update_attempt: 2
http.outbound_0.0.0.0_80.rds.80.update_failure: 1
http.outbound_0.0.0.0_80.rds.80.update_rejected: 2
listener_manager.total_filter_chains_draining: 1
listener_manager.total_listeners_draining: 2
listener_manager.total_listeners_warming: 1
server.state: 0
"""


def answering(body: bytes) -> int:
    """A port that answers one request with ``body`` in two chunks."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for part in (body[:100], body[100:]):
                connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            connection.sendall(b"0\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    return listener.getsockname()[1]


def test_statistics_tell_versions_refusals_warming_and_draining():
    answer = xds.ask(answering(STATS))
    assert answer.server == "LIVE"
    assert answer.has("cds.json", "", "c1")
    assert answer.has("eds/x.json", "outbound|80||a.b", "e1")
    assert answer.has("rds/80.json", "80", "r1")
    assert not answer.has("rds/80.json", "80", "r2")
    assert answer.refused["http.outbound_0.0.0.0_80.rds.80"] == 3
    assert answer.warming == ["cluster outbound|80||a.b", "1 listener(s)"]
    assert answer.draining == 3


def test_a_secret_that_nobody_uses_is_not_waited_for_and_a_route_is():
    answer = xds.ask(answering(STATS))
    assert answer.has("sds/default.json", "default", "s1")
    assert not answer.has("rds/unused.json", "unused", "r1")


def test_a_port_that_nobody_listens_on_is_not_answering():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(xds.NotAnswering):
        xds.get(port, "/")


def test_clusters_that_only_the_old_list_has_are_kept_until_routes_have_moved():
    old = json.dumps({"version_info": "1", "resources": [{"name": "a", "v": 1}, {"name": "b"}]})
    new = json.dumps({"version_info": "2", "resources": [{"name": "a", "v": 2}, {"name": "c"}]})
    kept = json.loads(xds.keep_old_clusters(new, old))
    assert kept["version_info"] == "2+"
    assert kept["resources"] == [{"name": "a", "v": 2}, {"name": "c"}, {"name": "b"}]
    assert xds.keep_old_clusters(new, new) == ""


def test_our_block_in_a_hosts_file_is_replaced_and_the_rest_stays(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    inode = hosts.stat().st_ino
    assert xds.write_hosts(str(hosts), "240.240.0.1 a\n240.240.0.2 b\n")
    assert not xds.write_hosts(str(hosts), "240.240.0.1 a\n240.240.0.2 b\n")
    assert xds.write_hosts(str(hosts), "240.240.0.1 c\n")
    assert xds.BLOCK.findall(hosts.read_text()) == ["240.240.0.1 c\n"]
    assert hosts.read_text().count("localhost") == 1
    assert " b" not in hosts.read_text()
    assert hosts.stat().st_ino == inode  # a namespace may have mounted this very file


@pytest.fixture
def setting_up(tmp_path, monkeypatch):
    """A document with one new proxy and a list of workloads, and what the node's tool does when it is called."""
    import testbed_node

    monkeypatch.setattr(xds, "WORKLOADS", str(tmp_path / "workloads.json"))
    monkeypatch.setattr(xds, "enter", lambda namespace: None)
    monkeypatch.setattr(xds.os, "fchown", lambda *_: None)
    monkeypatch.setattr(xds.os, "chown", lambda *_: None)
    done = []
    monkeypatch.setattr(testbed_node.Node, "converge", lambda self: done.append(sorted(p.name for p in files())))

    def files():
        return [p for p in (tmp_path / "proxy").rglob("*.json") if p.name != "manifest.json"]

    entries = {
        "bootstrap.json": {"version": "b1", "resource": "", "content": "{}"},
        "sds/default.json": {"version": "s1", "resource": "default", "content": "{}"},
    }
    proxy = {"directory": str(tmp_path / "proxy"), "namespace": "web", "revision": "r1", "files": entries}
    (tmp_path / "resources").mkdir()
    document = {
        "resources": {"directory": str(tmp_path / "resources"), "content": "applied"},
        "workloads": {"web": {**proxy, "start": ["false"]}},
        "set_up": "the workloads",
        "durable": False,
        "limit": 5,
    }
    return document, done


def test_a_new_workload_is_set_up_with_its_proxys_files_there_and_the_proxy_is_not_started_again(
    setting_up, tmp_path, monkeypatch
):
    document, done = setting_up
    answered = []
    monkeypatch.setattr(xds, "ask", lambda port: answered.append(port) or xds.Answer("server.state: 0\n"))
    result = xds.apply(document)["workloads"]["web"]
    assert result["written"] == ["bootstrap.json", "sds/default.json"]
    assert done == [["bootstrap.json", "default.json"]]  # there when the node's tool started what it starts
    assert (tmp_path / "workloads.json").read_text() == "the workloads"
    assert len(answered) == 1
    manifest = json.loads((tmp_path / "proxy/.state/manifest.json").read_text())
    assert (manifest["revision"], manifest["files"]["bootstrap.json"]) == ("r1", ["b1", ""])


@pytest.mark.parametrize(("set_up", "asked"), [(False, ["web"]), (True, [])])
def test_no_proxy_is_asked_by_who_sets_up_workloads_next_and_tells_them_all_then(
    tmp_path, monkeypatch, set_up, asked
):
    import testbed_look

    said = []
    monkeypatch.setattr(testbed_look, "statistics", lambda namespace, *_: said.append(namespace) or "answer")
    question = {
        "files": [],
        "standing": str(tmp_path / "standing"),
        "proxies": [[str(tmp_path), "web", 1]],
        "path": "/",
    }
    texts = testbed_look.look({**question, "set_up": set_up})
    assert said == asked
    assert texts.endswith("\0answer\0" if asked else "\0\0")


def test_a_workload_that_can_not_be_set_up_says_why_and_its_files_count_as_unknown(
    setting_up, tmp_path, monkeypatch
):
    import testbed_node

    def refuse(self):
        raise testbed_node.Refused("systemctl start: no")

    document, _ = setting_up
    monkeypatch.setattr(testbed_node.Node, "converge", refuse)
    result = xds.apply(document)["workloads"]["web"]
    assert "was not set up: Refused: systemctl start: no" in result["late"]
    manifest = json.loads((tmp_path / "proxy/.state/manifest.json").read_text())
    assert (manifest["revision"], manifest["files"]["bootstrap.json"]) == ("", ["", ""])
