"""What an inventory names for private registries is read from where it is, and refused before a machine is made."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from testbed.cli import run
from testbed.deploy.registries import RegistryAccess
from testbed.errors import BadInput
from testbed.host.directories import testbed_home as home
from testbed.model.reading import read_inventory
from testbed.pki import LabCa
from testbed.workflows.cluster import wanted_cluster
from testbed.workflows.registries import registries_access

REGISTRY = """\
cluster:
  registries:
    docker.io:
      endpoints: ['https://one.lab:5000']
      ca: {folder}/ca.pem
      certificate: {folder}/node.pem
      key: {{file: {folder}/node.key}}
      username: lab
      password: {{env: LAB_REGISTRY_PASSWORD}}

mesh:
"""


def pem(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_REGISTRY_PASSWORD", "hidden\n")
    files = LabCa.open(tmp_path / "ca", "lab").as_files()
    names = {"ca.pem": "root-cert.pem", "node.pem": "ca-cert.pem", "node.key": "ca-key.pem"}
    for name, source in names.items():
        (tmp_path / name).write_bytes(files[source])
    (tmp_path / "node.key").chmod(0o600)
    text = (home() / "inventories" / "k3s-small.yaml").read_text()
    (tmp_path / "lab.yaml").write_text(text.replace("mesh:\n", REGISTRY.format(folder=tmp_path), 1))
    return tmp_path


def inventory(folder):
    return read_inventory((folder / "lab.yaml").read_text(), str(folder / "lab.yaml"))


def access(folder):
    return registries_access(inventory(folder), str(folder / "lab.yaml"))


def problems(folder):
    with pytest.raises(BadInput) as caught:
        access(folder)
    assert all("hidden" not in str(p) + p.next_step for p in caught.value.problems)
    return [str(p).removeprefix(f"{folder}/").replace(f"{folder}/", "") for p in caught.value.problems]


def test_contents_come_from_files_and_variables(folder):
    found = access(folder)["docker.io"]
    assert found == RegistryAccess(
        (folder / "ca.pem").read_text(),
        (folder / "node.pem").read_text(),
        (folder / "node.key").read_text(),
        "hidden",
    )
    assert "hidden" not in repr(found) and "PRIVATE" not in repr(found)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f, m: (f / "ca.pem").unlink(), "ca: ca.pem cannot be read: No such file or directory"),
        (lambda f, m: (f / "ca.pem").write_text("what"), "ca: ca.pem has no certificate in PEM"),
        (lambda f, m: (f / "node.key").chmod(0o640), "key: node.key has mode 0640: others can read it"),
        (lambda f, m: (f / "node.key").write_text("hidden"), "key: it is no private key in PEM without a passphrase"),
        (
            lambda f, m: (f / "node.key").write_bytes(pem(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"x"))),
            "key: it is no private key in PEM without a passphrase",
        ),
        (
            lambda f, m: (f / "node.key").write_bytes(pem(ec.generate_private_key(ec.SECP256R1()))),
            "key: the key is not the certificate's",
        ),
        (lambda f, m: m.delenv("LAB_REGISTRY_PASSWORD"), "password: the environment variable LAB_REGISTRY_PASSWORD is not set"),
        (lambda f, m: m.setenv("LAB_REGISTRY_PASSWORD", ""), "password: the password is not one line of text"),
        (lambda f, m: m.setenv("LAB_REGISTRY_PASSWORD", "hidden\ntwo"), "password: the password is not one line of text"),
    ],
)  # fmt: skip
def test_what_can_not_be_used_is_located_and_its_content_is_not_shown(folder, monkeypatch, spoil, says):
    spoil(folder, monkeypatch)
    [found] = problems(folder)
    assert found.startswith("lab.yaml:") and found.endswith(f"cluster.registries.docker.io.{says}"), found


def test_every_problem_is_found_in_the_order_of_the_file(folder, monkeypatch):
    monkeypatch.delenv("LAB_REGISTRY_PASSWORD")
    (folder / "ca.pem").unlink()
    lines = (folder / "lab.yaml").read_text().splitlines()
    assert [lines[int(p.split(":")[1]) - 1].split()[0] for p in problems(folder)] == ["ca:", "password:"]


def test_lint_and_plan_refuse_in_one_line_and_down_needs_no_secret(folder, monkeypatch, capsys):
    for name in ("CACHE", "STATE", "RUNTIME"):
        monkeypatch.setenv(f"XDG_{name}_{'DIR' if name == 'RUNTIME' else 'HOME'}", str(folder / name))
    monkeypatch.delenv("LAB_REGISTRY_PASSWORD")
    resources = str(home() / "playbooks" / "resources" / "two-nodes")
    for command in (["lint", "-i", str(folder / "lab.yaml"), resources], ["plan", "-i", str(folder / "lab.yaml")]):
        assert run(command) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 2 and "LAB_REGISTRY_PASSWORD is not set" in said[0]
        assert said[1] == "next: export LAB_REGISTRY_PASSWORD"
    assert run(["down", "-i", str(folder / "lab.yaml")]) == 0


def test_another_password_touches_all_nodes_and_nothing_else(folder, monkeypatch):
    before = wanted_cluster(inventory(folder), access(folder))
    monkeypatch.setenv("LAB_REGISTRY_PASSWORD", "changed")
    after = wanted_cluster(inventory(folder), access(folder))
    assert {n for n in after.nodes if after.nodes[n] != before.nodes[n]} == {"server", "agent"}
    assert (after.control_plane, after.pods) == (before.control_plane, before.pods)
