"""k3s on a node: the inventory in, files and commands out; compared with tests/golden/k3s.

Write these anew with: TESTBED_GOLDEN=write pytest tests/unit/deploy/test_deploy_k3s.py
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from testbed.deploy import DeployHost, run_deploy
from testbed.deploy.files import Found, NodeFile, UnitFiles, commands, found, look
from testbed.deploy.k3s import k3s_files
from testbed.deploy.keepalived import keepalived_files
from testbed.deploy.registries import RegistryAccess
from testbed.host.directories import testbed_home as home
from testbed.model.clusters import api_address
from testbed.model.reading import read_inventory
from testbed.pki.token import join_token

GOLDEN = home() / "tests" / "golden" / "k3s"
DEPLOY = home() / "playbooks" / "deploys" / "unit.py"
TOKEN = "0123456789abcdef"


def inventory(name, **changes):
    text = (home() / "inventories" / f"{name}.yaml").read_text()
    for old, new in changes.get("replace", {}).items():
        assert old in text
        text = text.replace(old, new, 1)
    return read_inventory(text, f"{name}.yaml")


PRIVATE = {
    "mesh:\n": "cluster:\n  components: [metrics-server]\n  auditLog: true\n  secretsEncryption: false\n"
    "  registries:\n"
    "    docker.io: {endpoints: ['https://registry.example:5000/hub', 'https://other.example'], ca: ca.pem,\n"
    "      username: lab, password: {env: SECRET}}\n"
    "    '*': {endpoints: ['https://all.example'], certificate: node.pem, key: {file: node.key}}\n\nmesh:\n"
}
ACCESS = {
    "docker.io": RegistryAccess(ca="certificates\n", password="hidden"),
    "*": RegistryAccess(certificate="own\n", key="hidden too\n"),
}
NODES = [
    *[("k3s-small", n, {}) for n in ("server", "agent")],
    ("k3s-ambient", "agent", {}),
    *[("k3s-ha", n, {}) for n in ("server-1", "server-2", "agent-1")],
    ("k3s-istio", "server", PRIVATE),
    ("k3s-istio", "agent-2", PRIVATE),
]


def shown(wanted):
    lines = [f"unit {wanted.unit}"]
    for file in wanted.files:
        lines += [f"--- {file.path} {file.mode:o}", file.content.rstrip("\n")]
    lines += [f"--- {path} -> {target}" for path, target in sorted(wanted.links.items())]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("lab", "node", "changes"), NODES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_node_of_the_cluster_gets_these_files(lab, node, changes):
    there = inventory(lab, replace=changes)
    text = shown(k3s_files(there, next(n for n in there.nodes if n.name == node), TOKEN, registries=ACCESS))
    golden = GOLDEN / f"{lab}-{node}{'-private' if changes else ''}.txt"
    if os.environ.get("TESTBED_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("node", ["server-1", "server-2"])
def test_one_of_several_servers_gets_what_moves_the_address(node):
    there = inventory("k3s-ha")
    text = shown(keepalived_files(there, next(n for n in there.nodes if n.name == node), TOKEN))
    golden = GOLDEN / f"k3s-ha-{node}-keepalived.txt"
    if os.environ.get("TESTBED_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


def test_the_secret_of_the_address_is_in_one_file_which_only_root_reads():
    there = inventory("k3s-ha")
    files = keepalived_files(there, there.nodes[0], TOKEN).files
    assert [(f.path, f.mode) for f in files if TOKEN[:8] in f.content] == [
        ("/etc/keepalived/keepalived.conf", 0o600)
    ]


def test_a_changed_drop_in_is_read_before_keepalived_is_restarted():
    there = inventory("k3s-ha")
    wanted = keepalived_files(there, there.nodes[0], TOKEN)
    has = Found({f.path: (f.digest, f.mode) for f in wanted.files[:2]}, {}, "active")
    assert [c.text.split(" && ")[0] for c in commands(wanted, has)][1:] == [
        "systemctl daemon-reload",
        "systemctl restart --no-block keepalived.service",
    ]


def config(lab, node):
    there = inventory(lab)
    files = k3s_files(there, next(n for n in there.nodes if n.name == node), TOKEN).files
    return yaml.safe_load(next(f.content for f in files if f.path.endswith("config.yaml")))


def test_only_the_first_server_begins_a_cluster_and_the_others_join_it():
    assert config("k3s-ha", "server-1")["cluster-init"] is True
    assert "server" not in config("k3s-ha", "server-1")
    for node in ("server-2", "server-3", "agent-1"):
        assert config("k3s-ha", node)["server"] == "https://10.77.0.9:6443", "it moves, and outlives the first"
        assert "cluster-init" not in config("k3s-ha", node)
    assert "cluster-init" not in config("k3s-small", "server"), "a single server needs no etcd"


def test_the_certificate_of_the_api_holds_for_the_address_that_moves():
    assert api_address(inventory("k3s-ha")) == "10.77.0.9"
    assert "10.77.0.9" in config("k3s-ha", "server-3")["tls-san"]
    assert api_address(inventory("k3s-small")) == "10.77.0.10"


def test_the_token_is_only_in_its_own_file_which_only_root_reads():
    for node in inventory("k3s-ha").nodes[:5]:
        files = k3s_files(inventory("k3s-ha"), node, TOKEN).files
        assert [(f.path, f.mode) for f in files if TOKEN in f.content] == [("/etc/rancher/k3s/token", 0o600)]


def test_secrets_of_registries_are_readable_by_root_alone_and_are_not_shown():
    there = inventory("k3s-istio", replace=PRIVATE)
    wanted = k3s_files(there, there.nodes[0], TOKEN, registries=ACCESS)
    secret = [(f.path.removeprefix("/etc/rancher/k3s/"), f.mode) for f in wanted.files if "hidden" in f.content]
    assert secret == [("registries/others/key.pem", 0o600), ("registries.yaml", 0o600)]
    assert "hidden" not in repr((wanted, ACCESS, commands(wanted, Found())))
    assert not [c.text for c in commands(wanted, Found()) if "hidden" in c.text]


def test_a_token_is_made_once_and_is_not_readable_by_others(tmp_path):
    token = join_token(tmp_path / "pki" / "token")
    assert len(token) == 64
    assert join_token(tmp_path / "pki" / "token") == token
    assert join_token(tmp_path / "other") != token
    assert (tmp_path / "pki" / "token").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in (tmp_path / "pki").iterdir()] == ["token"]


def test_nothing_is_unpacked_by_a_node():
    there = inventory("k3s-small")
    wanted = k3s_files(there, there.nodes[1], TOKEN)
    assert wanted.links["/var/lib/rancher/k3s/data"] == "/opt/testbed/k3s/data"
    [unit] = (f.content for f in wanted.files if f.path.endswith(".service"))
    store = next(line for line in unit.splitlines() if "/opt/testbed/k3s/store/start" in line)
    assert unit.index(store) < unit.index("ExecStart=")


def test_the_store_that_a_node_begins_with_is_whole_or_made_again(tmp_path):
    """The unit's own command, below another root: whole once done, left alone then, made anew when cut off."""
    there = inventory("k3s-small")
    [unit] = (f.content for f in k3s_files(there, there.nodes[1], TOKEN).files if f.path.endswith(".service"))
    line = next(line for line in unit.splitlines() if "/opt/testbed/k3s/store/start" in line)
    command = line.removeprefix("ExecStartPre=").replace("/var/lib", f"{tmp_path}/var")
    command = command.replace("/opt/testbed", f"{tmp_path}/opt")
    start = tmp_path / "opt/k3s/store/start"
    start.mkdir(parents=True)
    (start / "meta.db").write_text("whole")
    (start / "layer").symlink_to("/opt/testbed/k3s/store/layers/1")
    store = tmp_path / "var/rancher/k3s/agent/containerd"
    (store.with_name("containerd.new")).mkdir(parents=True)
    (store.with_name("containerd.new") / "half").write_text("")
    subprocess.run(shlex.split(command), check=True)
    assert sorted(p.name for p in store.iterdir()) == ["layer", "meta.db"]
    assert str((store / "layer").readlink()) == "/opt/testbed/k3s/store/layers/1"
    (store / "meta.db").write_text("used")
    subprocess.run(shlex.split(command), check=True)
    assert (store / "meta.db").read_text() == "used"
    assert [p.name for p in store.parent.iterdir()] == ["containerd"]


def test_istios_plugin_finds_a_folder_that_it_can_write_to_beside_what_is_unpacked(tmp_path):
    """The script before k3s starts, below another root: once, again, and after it was cut off in the middle."""
    there = inventory("k3s-ambient")
    wanted = k3s_files(there, there.nodes[1], TOKEN)
    assert wanted.links["/var/lib/rancher/k3s/data"] == "/var/lib/rancher/k3s/data-own"
    [unit] = (f.content for f in wanted.files if f.path.endswith(".service"))
    assert unit.index("ExecStartPre=/bin/sh /etc/testbed/k3s-data.sh") < unit.index("ExecStart=")
    [script] = (f.content for f in wanted.files if f.path == "/etc/testbed/k3s-data.sh")
    script = script.replace("/var/lib", f"{tmp_path}/var").replace("/opt/testbed", f"{tmp_path}/opt")
    disk, data = tmp_path / "opt/k3s/data", tmp_path / "var/rancher/k3s/data-own"
    (disk / "0123" / "bin").mkdir(parents=True)
    (disk / "0123" / "bin" / "cni").write_text("a plugin")
    (disk / "cni").mkdir()
    (disk / "cni" / "bridge").symlink_to("../0123/bin/cni")
    (disk / "current").symlink_to("0123")
    for begun in (False, True):
        if begun:
            Path(f"{data}.new/cni").mkdir(parents=True)
        subprocess.run(["sh", "-c", script], check=True)
        assert (data / "0123").readlink() == disk / "0123"
        assert (data / "cni" / "bridge").read_text() == "a plugin"
        (data / "cni" / "istio-cni").write_text("Istio's")
        subprocess.run(["sh", "-c", script], check=True)
        assert (data / "cni" / "istio-cni").exists(), "it is left alone from then on"
        assert not (disk / "cni" / "istio-cni").exists()
        shutil.rmtree(data)
    assert [p.name for p in data.parent.iterdir()] == []


# From what a node has to what it must have

UNIT = NodeFile("/etc/systemd/system/x.service", "[Service]\n")
CONFIG = NodeFile("/etc/x/config", "secret\n", 0o600)
NOTE = NodeFile("/etc/x/note", "read at once\n", restarts=False)
WANTED = UnitFiles("x.service", (CONFIG, NOTE, UNIT), {"/usr/local/bin/x": "/opt/x"})
COMPLETE = Found({f.path: (f.digest, f.mode) for f in WANTED.files}, {"/usr/local/bin/x": "/opt/x"}, "active")


def without(path, **changes):
    digests = {p: d for p, d in COMPLETE.digests.items() if p != path}
    return Found(
        changes.get("digests", digests), changes.get("links", COMPLETE.links), changes.get("state", "active")
    )


def last_words(has):
    return [c.text.split(" && ")[-1].split(" --no-block")[0] for c in commands(WANTED, has)]


def test_a_new_node_gets_everything_and_the_unit_is_started():
    assert last_words(Found()) == [
        "mv /etc/x/config.new /etc/x/config",
        "mv /etc/x/note.new /etc/x/note",
        "mv /etc/systemd/system/x.service.new /etc/systemd/system/x.service",
        "ln -sfn /opt/x /usr/local/bin/x",
        "systemctl enable --quiet x.service",
        "systemctl start",
    ]


@pytest.mark.parametrize(
    ("has", "does"),
    [
        (COMPLETE, []),
        (without(CONFIG.path), ["mv /etc/x/config.new /etc/x/config", "systemctl restart"]),
        (without("", digests={**COMPLETE.digests, CONFIG.path: (CONFIG.digest, 0o644)}), ["mv /etc/x/config.new /etc/x/config", "systemctl restart"]),
        (without(NOTE.path), ["mv /etc/x/note.new /etc/x/note"]),
        (without("", links={}), ["ln -sfn /opt/x /usr/local/bin/x", "systemctl restart"]),
        (without("", links={"/usr/local/bin/x": "/opt/older"}), ["ln -sfn /opt/x /usr/local/bin/x", "systemctl restart"]),
        (without("", state="failed"), ["systemctl start"]),
        (without("", state="activating"), []),
    ],
    ids=["complete", "changed", "readable", "not read at start", "no link", "other link", "failed", "starting"],
)  # fmt: skip
def test_only_what_differs_is_done_and_only_what_must_is_restarted(has, does):
    assert last_words(has) == does


def test_no_content_is_on_a_command_line():
    assert not [c.text for c in commands(WANTED, Found()) if "secret" in c.text]
    assert "secret" not in repr(WANTED)


def test_looking_finds_what_was_laid_down(tmp_path):
    import subprocess

    for command in commands(WANTED, Found(), str(tmp_path)):
        if "systemctl" not in command.text:
            subprocess.run(["sh", "-ec", command.text], input=command.stdin, text=True, check=True)
    lines = subprocess.run(["sh", "-c", look(WANTED, str(tmp_path))], capture_output=True, text=True, check=True)
    has = found(lines.stdout.splitlines(), str(tmp_path))
    assert (has.digests, has.links) == (COMPLETE.digests, COMPLETE.links)


# The deploy itself, by the real pyinfra, against a folder; systemctl is a stand-in that writes down its calls


@pytest.fixture
def node(tmp_path, monkeypatch):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    systemctl = bin_folder / "systemctl"
    systemctl.write_text(
        f'#!/bin/sh\n[ "$1" = is-active ] && exec cat {tmp_path}/state\necho "$*" >>{tmp_path}/calls\n'
    )
    systemctl.chmod(0o755)
    (tmp_path / "state").write_text("inactive\n")
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    return tmp_path


def deploy(node, wanted):
    data = {"units": [wanted.as_data()], "root": str(node / "root")}
    outcome = run_deploy(DEPLOY, [DeployHost("here", data, "local")]).require().hosts["here"]
    calls = node / "calls"
    said = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return outcome.changed, said


def test_the_deploy_lays_down_starts_once_and_restarts_for_what_changed(node):
    there = inventory("k3s-small")
    wanted = k3s_files(there, there.nodes[0], TOKEN)
    changed, said = deploy(node, wanted)
    assert changed
    assert said == ["daemon-reload", "enable --quiet k3s.service", "start --no-block k3s.service"]
    assert (node / "root/etc/rancher/k3s/token").stat().st_mode & 0o777 == 0o600
    assert (node / "root/usr/local/bin/k3s").readlink() == Path("/opt/testbed/k3s/k3s")
    (node / "state").write_text("active\n")
    assert deploy(node, wanted) == (0, [])
    audited = inventory("k3s-small", replace={"mesh:\n": "cluster: {auditLog: true}\n\nmesh:\n"})
    assert deploy(node, k3s_files(audited, audited.nodes[0], TOKEN)) == (1, ["restart --no-block k3s.service"])


def test_a_registry_that_the_inventory_has_no_more_is_forgotten(node):
    there = inventory("k3s-small")
    with_registry = inventory(
        "k3s-small",
        replace={"mesh:\n": "cluster: {registries: {a.lab: {endpoints: ['https://a.lab']}}}\n\nmesh:\n"},
    )
    deploy(node, k3s_files(with_registry, with_registry.nodes[0], TOKEN, registries={"a.lab": RegistryAccess()}))
    registries = node / "root/etc/rancher/k3s/registries.yaml"
    assert registries.exists()
    (node / "state").write_text("active\n")
    assert deploy(node, k3s_files(there, there.nodes[0], TOKEN)) == (1, ["restart --no-block k3s.service"])
    assert not registries.exists()
    assert deploy(node, k3s_files(there, there.nodes[0], TOKEN)) == (0, [])
