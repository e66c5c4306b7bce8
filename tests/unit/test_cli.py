"""Whatever goes wrong, people get one line, what to do next, and an exit code; never a traceback."""

import errno
import json
import re

import pytest

from testbed.cli import run
from testbed.errors import BadInput, HostNotReady, LabBusy, Location, Problem
from testbed.plan import ObservedLab, ObservedMachine
from testbed.workflows.status import LabStatus

INVENTORY = """\
id: {id}
hosts: [{{uri: "{uri}"}}]
nodes: [{{name: left}}]
services: [{{name: echo, ports: [{{name: http, port: 9080}}]}}]
workloads: [{{service: echo, node: left}}]
"""


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        folder = tmp_path / variable
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))


@pytest.fixture
def inventory(tmp_path):
    def write(uri="auto", text=INVENTORY, lab_id="not-up"):
        file = tmp_path / "lab.yaml"
        file.write_text(text.format(id=lab_id, uri=uri))
        return str(file)

    return write


def refused(capsys, code, *arguments):
    assert run(list(arguments)) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return re.sub(r"\x1b\[[0-9;]*m", "", said)


def test_an_unknown_inventory_names_those_there_are(capsys):
    said = refused(capsys, 2, "status", "-i", "bookinf")
    assert "no such inventory" in said
    assert "bookinfo" in said.splitlines()[-1]


def test_broken_yaml_is_located(capsys, tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_text("id: x\nnodes: [\n")
    assert re.search(r"lab\.yaml:\d+:\d+: not valid YAML", refused(capsys, 2, "plan", "-i", str(file)))


def test_lint_says_what_istio_does_and_what_to_write(capsys, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: x}\nspec: {egres: []}\n")
    assert run(["lint", str(file)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{file}:4:8: spec.egres: error: unknown field 'egres'")
    assert lines[1:3] == ["    Istio: nothing of it is applied", "    next: did you mean egress?"]


def test_every_problem_of_an_inventory_is_a_line(capsys, tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_text("id: x\nnodes:\n  - {name: a, cpus: 3}\n  - {name: B}\n")
    said = refused(capsys, 2, "plan", "-i", str(file))
    assert "lab.yaml:3:" in said and "unknown field 'cpus'" in said
    assert "lab.yaml:4:" in said


@pytest.mark.parametrize(
    "command",
    [["ssh", "left", "--", "true"], ["applied"], ["apply", "-"], ["proxy", "echo-v1"], ["export", "ssh-config"], ["verify", "echo-split"]],
    ids=lambda c: c[0],
)  # fmt: skip
def test_a_lab_that_is_not_up_is_said_to_be(capsys, inventory, tmp_path, command):
    manifest = tmp_path / "a.yaml"
    manifest.write_text(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a}\nspec: {egress: [{hosts: ['./*']}]}\n"
    )
    words = [str(manifest) if word == "-" else word for word in command]
    said = refused(capsys, 1, words[0], "-i", inventory(), *words[1:])
    assert "not up" in said
    assert "testbed up" in said


def test_an_unknown_node_names_those_there_are(capsys, inventory):
    said = refused(capsys, 2, "console", "-i", inventory(), "middle")
    assert "no node 'middle'" in said
    assert "left" in said


def test_down_of_nothing_is_no_error(capsys, inventory):
    assert run(["down", "-i", inventory()]) == 0
    assert "nothing was there" in capsys.readouterr().out


def test_no_libvirt_is_the_hosts_trouble(capsys, inventory):
    said = refused(capsys, 4, "status", "-i", inventory("qemu:///system?socket=/nonexistent"))
    assert "libvirt" in said
    assert "testbed doctor" in said


def test_an_unknown_option_is_bad_input(capsys):
    refused(capsys, 2, "up", "--sideways")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/disk"), 1, "/disk: use it: No space left on device"),
        (LabBusy("lab x", "wait", "`testbed up` (pid 7)"), 1, "pid 7"),
        (HostNotReady("qemu", "find it", "not installed"), 4, "not installed"),
        (BadInput([Problem(Location("f", 3, 4, "a.b"), "wrong", "mend it")]), 2, "f:3:4: a.b: wrong"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("surprise"), 1, "a bug in Testbed: RuntimeError: surprise"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else None,
)
def test_every_error_ends_as_lines_and_a_code(capsys, inventory, monkeypatch, error, code, words):
    def fail(_lab):
        raise error

    monkeypatch.setattr("testbed.workflows.status.status", fail)
    assert words in refused(capsys, code, "status", "-i", inventory())


def test_status_tells_a_machine_that_stands_still_from_one_that_is_off(capsys, inventory, monkeypatch):
    def seen(lab):
        first, *others = (n.name for n in lab.inventory.nodes)
        still = {first: ObservedMachine("spec", False, paused=True)}
        return LabStatus(lab, ObservedLab(machines=still | {n: ObservedMachine("spec", False) for n in others}))

    monkeypatch.setattr("testbed.workflows.status.status", seen)
    run(["status", "-i", inventory(text=INVENTORY.replace("{{name: left}}", "{{name: left}}, {{name: right}}"))])
    shown = capsys.readouterr().out
    assert re.search(r"left +paused", shown)
    assert re.search(r"right +off", shown)


def test_status_says_where_a_pod_is_that_is_not_at_home(capsys, inventory, monkeypatch):
    def seen(lab):
        machines = {n.name: ObservedMachine("spec", True, answers=True) for n in lab.inventory.nodes}
        return LabStatus(lab, ObservedLab(machines=machines), away={lab.topology.workloads[0].name: "right"})

    monkeypatch.setattr("testbed.workflows.status.status", seen)
    file = inventory(text=INVENTORY.replace("{{name: left}}", "{{name: left}}, {{name: right}}"))
    run(["status", "-i", file])
    assert re.search(r"left .*\(on right\)", capsys.readouterr().out)
    run(["status", "--json", "-i", file])
    assert list(json.loads(capsys.readouterr().out)["away"].values()) == ["right"]


def test_help_lists_every_command(capsys):
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("doctor", "up", "down", "apply", "verify", "lint", "explain"):
        assert re.search(rf"^  {command} ", shown, re.MULTILINE)
