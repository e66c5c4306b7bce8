"""A lab's entry in somebody's kubeconfig: put in without harm to whatever else is there."""

import threading

import pytest
import yaml

from testbed.backends.istio.kubeconfig import Access, merged, read_access
from testbed.errors import BadInput, WaitTimeout
from testbed.workflows import kubeconfig
from testbed.workflows.kubeconfig import merge_into

OWN = """\
apiVersion: v1
kind: Config
current-context: work
clusters: [{name: work, cluster: {server: 'https://work'}}]
users: [{name: work, user: {token: secret}}]
contexts: [{name: work, context: {cluster: work, user: work}}]
preferences: {colors: true}
"""
ACCESS = Access("10.77.0.10", 6443, "CA", "CERTIFICATE", "KEY")


def test_a_labs_entry_goes_beside_others_and_their_context_stays():
    text = merged(OWN, "small", ACCESS, "config")
    before, after = yaml.safe_load(OWN), yaml.safe_load(text)
    assert after["current-context"] == "work"
    for field in ("clusters", "users", "contexts"):
        assert after[field][:1] == before[field]
        assert [e["name"] for e in after[field]] == ["work", "testbed-small"]
    assert after["preferences"] == before["preferences"]
    again = merged(text, "small", Access("10.77.0.9", 6443, "CA", "CERTIFICATE", "KEY"), "config")
    assert again.count("testbed-small") == text.count("testbed-small")
    assert "10.77.0.9" in again and "10.77.0.10" not in again


def test_a_first_entry_is_the_current_one_and_reads_back():
    text = merged("", "small", ACCESS, "config")
    assert read_access(text, "config") == ACCESS
    assert "KEY" not in repr(ACCESS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a", "is no kubeconfig"),
        ("kind: Pod", "is no kubeconfig"),
        ("{", "is no YAML"),
        ("kind: Config", "has no context None"),
        (OWN, "has no certificate-authority-data"),
        (OWN.replace("https://work", "http://work"), "is no https address"),
    ],
)
def test_a_kubeconfig_that_can_not_be_used_is_refused(text, says):
    with pytest.raises(BadInput, match=says):
        read_access(text, "config")


AWKWARD = """\
# mine
kind: Config
apiVersion: v1
clusters:
- cluster: {server: https://work, insecure-skip-tls-verify: true}
  name: work
contexts: null
current-context: ""
users:
- name: work
  user:
    token: 0123456789
    auth-provider:
      config: {expiry: 2026-01-01T00:00:00Z, id: 1e3, on: yes, empty: ~, text: 'yes', long: "%s"}
    exec:
      args:
      - |
        two
        lines
"""


def test_values_of_others_are_written_as_they_were():
    """A token of digits is no number for kubectl, and a time no Python object: only the places of entries are read."""
    text = merged(AWKWARD % ("word " * 60), "small", ACCESS, "config")
    for written in (
        "token: 0123456789",
        "expiry: '2026-01-01T00:00:00Z'",
        "id: 1e3",
        "on: yes",
        "empty: ~",
        "text: 'yes'",
        "insecure-skip-tls-verify: true",
    ):
        assert written in text
    assert "!!" not in text
    there, before = (yaml.load(t, yaml.BaseLoader)["users"][0] for t in (text, AWKWARD % ("word " * 60)))
    assert there == before
    assert yaml.safe_load(text)["current-context"] == "testbed-small", "an empty one is none"
    assert read_access(text, "config") == ACCESS
    assert merged(text, "small", ACCESS, "config") == text


def test_a_file_in_json_stays_readable_and_entries_are_found_in_it():
    own = '{"kind": "Config", "clusters": [{"name": "testbed-small", "cluster": {"server": "https://old"}}], "contexts": []}'
    text = merged(own, "small", ACCESS, "config")
    assert read_access(text, "config") == ACCESS
    assert "https://old" not in text


@pytest.mark.parametrize(
    ("text", "says"),
    [("kind: Pod", "is no kubeconfig"), ("clusters: {}", "clusters is no list"), ("a: [", "is no YAML")],
)
def test_what_can_not_be_merged_is_left_alone(tmp_path, text, says):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(BadInput, match=says):
        merge_into(path, lambda there: merged(there, "small", ACCESS, str(path)))
    assert path.read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["config"], "no lock and no part is left"


def test_a_file_is_made_for_its_owner_alone(tmp_path):
    path = tmp_path / "new" / "config"
    merge_into(path, lambda there: there + "kind: Config\n")
    assert path.read_text() == "kind: Config\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "config"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="can't be read"):
        merge_into(path, lambda there: there)


def test_writers_wait_for_each_other_and_nothing_is_lost(tmp_path):
    path = tmp_path / "config"
    threads = [
        threading.Thread(target=merge_into, args=(path, lambda t, n=n: merged(t, f"lab-{n}", ACCESS, "config")))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {c["name"] for c in yaml.safe_load(path.read_text())["contexts"]}
    assert names == {f"testbed-lab-{n}" for n in range(8)}


def test_kubectls_lock_is_respected_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(kubeconfig, "LOCK_LIMIT", 0.1)
    path, lock = tmp_path / "config", tmp_path / "config.lock"
    path.write_text(OWN)
    lock.touch()
    with pytest.raises(WaitTimeout) as caught:
        merge_into(path, lambda there: "")
    assert str(lock) in caught.value.next_step
    assert (path.read_text(), lock.exists()) == (OWN, True)
