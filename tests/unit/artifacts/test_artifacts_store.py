"""Artifacts: checked against the release's sums, pinned, and served again from a mirror."""

import hashlib
import io
import tarfile
from dataclasses import replace

import pytest

from testbed.artifacts import LockFile, Pin, State, Store, read_catalogue, sources
from testbed.artifacts.catalogue import RELEASES
from testbed.artifacts.registry import copy_image
from testbed.artifacts.sources import MirrorAddress, Releases
from testbed.artifacts.sums import sum_for
from testbed.cli import run
from testbed.errors import BadInput, HostNotReady, LabError

VERSION = "v1.35.6+k3s1"
CONTENT = {"k3s": b"a program" * 9999, "k3s-airgap-images-amd64.tar.zst": b"images" * 50_000}
WANTED = read_catalogue().artifacts("k3s", VERSION)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache", LockFile(tmp_path / "artifacts.lock"))


@pytest.fixture
def mirror(server):
    server.put_release(VERSION, CONTENT)
    return server


# What there is to choose from


def test_every_default_is_listed_and_every_address_is_encrypted():
    catalogue = read_catalogue()
    assert len(catalogue.versions("k3s")) == 3
    assert len({v.rpartition(".")[0] for v in catalogue.versions("k3s")}) == 3, "three minors"
    for product in ("k3s", "istio"):
        for version in catalogue.versions(product):
            files = [a for a in catalogue.artifacts(product, version) if not a.is_image]
            assert all(a.address.startswith("https://") and "{" not in a.address + a.path for a in files)


def test_a_plus_sign_in_a_version_is_escaped_in_its_address():
    assert WANTED[0].address == "https://github.com/k3s-io/k3s/releases/download/v1.35.6%2Bk3s1/k3s"
    assert WANTED[0].path == "k3s/v1.35.6+k3s1/k3s"


def test_the_sums_lie_beside_the_file():
    deb = next(a for a in read_catalogue().artifacts("istio", "1.31.0") if a.name == "istio-sidecar.deb")
    assert deb.sums_address == deb.address + ".sha256"


def test_only_ambient_needs_the_node_proxy():
    names = {
        mode: {a.name for a in read_catalogue().artifacts("istio", "1.31.0", mode)}
        for mode in ("sidecar", "ambient")
    }
    assert names["ambient"] - names["sidecar"] == {"ztunnel.tar", "install-cni.tar"}


def test_a_default_that_is_not_listed_is_located(tmp_path):
    text = RELEASES.read_text().replace("default: 1.31.0", "default: 1.2.3")
    (tmp_path / "releases.yaml").write_text(text)
    line = text[: text.index("default: 1.2.3")].count("\n") + 1
    with pytest.raises(BadInput, match=rf"releases.yaml:{line}:\d+: istio.default: 1.2.3 is none"):
        read_catalogue(tmp_path / "releases.yaml")


# Sums


@pytest.mark.parametrize(
    "text",
    [f"{'a' * 64}  other\n{'b' * 64}  k3s\n", f"{'b' * 64} *k3s\n", f"{'B' * 64}  ./dist/k3s\n", "b" * 64],
)
def test_a_sum_is_found_as_sha256sum_writes_it(text):
    assert sum_for("k3s", text, "sums") == "b" * 64


@pytest.mark.parametrize("text", ["<html>Not Found</html>", f"{'a' * 64}  k3s-arm64\n", "", f"{'a' * 63}  k3s\n"])
def test_text_without_the_sum_is_refused(text):
    with pytest.raises(BadInput, match="no SHA-256 sum for k3s"):
        sum_for("k3s", text, "sums")


# Pulling


def test_a_release_is_pulled_once_checked_and_pinned(store, mirror):
    source = MirrorAddress(mirror.url)
    pulled = store.pull(WANTED, [source])
    assert [p.source for p in pulled] == [mirror.url] * 2
    assert store.path(WANTED[0]).read_bytes() == CONTENT["k3s"]
    assert store.path(WANTED[0]).stat().st_mode & 0o777 == 0o755
    assert store.path(WANTED[1]).stat().st_mode & 0o777 == 0o644
    digest = hashlib.sha256(CONTENT["k3s"]).hexdigest()
    assert f"{digest}  {len(CONTENT['k3s'])}  k3s/v1.35.6+k3s1/k3s\n" in store.lock.path.read_text()
    asked = len(mirror.asked)
    assert [p.source for p in store.pull(WANTED, [source])] == ["cache"] * 2
    assert len(mirror.asked) == asked
    assert mirror.asked[0][0] == "/k3s/v1.35.6%2Bk3s1/sha256sum-amd64.txt"


def test_content_other_than_the_sums_say_is_not_kept(store, server):
    server.put_release(VERSION, CONTENT, wrong_sum=True)
    with pytest.raises(LabError, match=r"k3s: check: its SHA-256 is .* the sums of http"):
        store.pull(WANTED, [MirrorAddress(server.url)])
    assert not [p for p in store.folder.rglob("*") if p.is_file()]
    assert store.lock.pins() == {}


def test_content_and_sums_that_changed_together_are_noticed_by_the_lock(store, mirror):
    store.pull(WANTED, [MirrorAddress(mirror.url)])
    store.path(WANTED[0]).unlink()
    mirror.put_release(VERSION, {**CONTENT, "k3s": b"another program"})
    with pytest.raises(LabError, match=r"artifacts.lock pins") as error:
        store.pull(WANTED, [MirrorAddress(mirror.url)])
    assert "delete its line" in error.value.next_step
    assert not store.path(WANTED[0]).exists()


def test_a_damaged_file_in_the_cache_is_seen_and_fetched_again(store, mirror):
    store.pull(WANTED, [MirrorAddress(mirror.url)])
    path = store.path(WANTED[1])
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert {a.name: s for a, s in store.states(WANTED)} == {
        "k3s": State.OK,
        "k3s-airgap-images-amd64.tar.zst": State.CHANGED,
    }
    store.pull(WANTED, [MirrorAddress(mirror.url)])
    assert path.read_bytes() == CONTENT[path.name]


def test_an_interrupted_pull_goes_on_and_is_checked_whole(store, mirror):
    mirror.cut_after, mirror.cuts = 10_000, 10**6
    with pytest.raises(LabError, match="broke off"):
        store.pull(WANTED, [MirrorAddress(mirror.url)])
    mirror.cuts = 0
    store.pull(WANTED, [MirrorAddress(mirror.url)])
    assert "bytes=50000-" in [r for _, r in mirror.asked]
    assert store.path(WANTED[0]).read_bytes() == CONTENT["k3s"]


def test_a_mirror_that_lacks_a_file_is_followed_by_the_release_address(store, server, monkeypatch):
    with_release = replace(WANTED[0], address=f"{server.url}/k3s/{VERSION}/k3s")
    server.put_release(VERSION, CONTENT)
    [pulled] = store.pull([with_release], [MirrorAddress(f"{server.url}/empty"), Releases()])
    assert pulled.source == Releases().name


def test_nowhere_to_be_had_names_both_places(store, server):
    absent = replace(WANTED[0], address="http://127.0.0.1:9/k3s")
    with pytest.raises(LabError, match=r"k3s/v1.35.6\+k3s1/k3s: pull: .*is not there; .*can't be reached"):
        store.pull([absent], [MirrorAddress(server.url), Releases()])


def test_a_lock_with_a_broken_line_is_located(store):
    store.lock.path.write_text("# head\nnonsense\n")
    with pytest.raises(BadInput, match=r"artifacts.lock:2: expected SHA256"):
        store.pull(WANTED, [])


def test_the_lock_stays_sorted_and_keeps_other_lines(tmp_path):
    lock = LockFile(tmp_path / "artifacts.lock")
    lock.add({"b": Pin(1, "0" * 64)})
    lock.add({"a": Pin(2, "1" * 64)})
    assert [line[-1] for line in lock.path.read_text().splitlines()[1:]] == ["a", "b"]


def test_what_is_missing_is_said_in_one_line_before_anything_starts(store, mirror):
    with pytest.raises(HostNotReady, match=r"k3s/v1.35.6\+k3s1/k3s is missing \(and 1 more\)") as error:
        store.require(WANTED, "pull them")
    assert (error.value.exit_code, error.value.next_step) == (4, "pull them")
    store.pull(WANTED, [MirrorAddress(mirror.url)])
    store.require(WANTED, "")


# Mirrors


def test_a_mirror_serves_another_host(store, mirror, tmp_path):
    store.pull(WANTED, [MirrorAddress(mirror.url)])
    store.mirror(WANTED, tmp_path / "mirror")
    other = Store(tmp_path / "other", LockFile(tmp_path / "other.lock"))
    mirror.files.clear()
    pulled = other.pull(WANTED, sources(str(tmp_path / "mirror")))
    assert [p.source for p in pulled] == [str(tmp_path / "mirror")] * 2
    assert other.lock.pins() == store.lock.pins() == LockFile(tmp_path / "mirror" / "artifacts.lock").pins()


def test_a_mirror_is_not_written_from_damaged_files(store, mirror, tmp_path):
    store.pull(WANTED, [MirrorAddress(mirror.url)])
    store.path(WANTED[0]).write_bytes(b"damaged")
    with pytest.raises(LabError, match="it is changed"):
        store.mirror(WANTED, tmp_path / "mirror")


def test_a_mirror_folder_that_is_not_there_is_bad_input():
    with pytest.raises(BadInput, match="no such mirror folder"):
        sources("/nonexistent/mirror")


# Images


def layer():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("etc/motd")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    return buffer.getvalue()


def test_an_image_comes_from_a_registry_the_same_each_time(server, tmp_path):
    server.put_image("istio/pilot", "1.31.0", layer())
    reference = f"127.0.0.1:{server.port}/istio/pilot:1.31.0"
    digests = set()
    for name in ("one.tar", "two.tar"):
        copy_image(reference, tmp_path / name, tls=False)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1, "the lock pins the archive: it must not depend on when it was made"
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert reference in archive.extractfile("manifest.json").read().decode()


def test_an_image_that_is_not_there_is_named(server, tmp_path):
    server.files["/v2/"] = b"{}"
    with pytest.raises(LabError, match="pilot:9: pull the image"):
        copy_image(f"127.0.0.1:{server.port}/istio/pilot:9", tmp_path / "a.tar", tls=False)
    assert not (tmp_path / "a.tar").exists()


def test_a_registry_that_limits_pulls_is_told_apart(server, tmp_path):
    server.answers["/v2/"] = (200, {})
    server.answers["/v2/istio/pilot/manifests/1"] = (429, {"Content-Type": "application/json", "Retry-After": "1"})
    with pytest.raises(LabError, match="limits how often") as error:
        copy_image(f"127.0.0.1:{server.port}/istio/pilot:1", tmp_path / "a.tar", tls=False)
    assert "skopeo login" in error.value.next_step


# The command


def test_pull_list_verify_and_mirror_from_the_command_line(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("testbed.workflows.artifacts.envoy", lambda cache, mirror: None)
    monkeypatch.setattr("testbed.workflows.artifacts.mirror_envoy", lambda folder: None)
    monkeypatch.setattr("testbed.workflows.artifacts.envoy_state", lambda: ("envoy", State.OK))
    lock = ["--lock", str(tmp_path / "lock")]
    for artifact in read_catalogue().artifacts("istio", "1.31.0", "sidecar"):
        body = artifact.name.encode() * 100
        server.files[f"/{artifact.path}"] = body
        server.files[f"/{artifact.sums_path}"] = f"{hashlib.sha256(body).hexdigest()}  {artifact.name}\n".encode()
    server.put_release(VERSION, CONTENT)
    inventory = ["-i", "k3s-small"]
    assert run(["artifacts", "verify", *inventory, *lock]) == 1
    assert run(["artifacts", "pull", *inventory, *lock, "--mirror", server.url]) == 0
    assert run(["artifacts", "verify", *inventory, *lock]) == 0
    assert "7 artifacts are in the cache" in capsys.readouterr().out
    assert run(["artifacts", "list", *inventory, *lock]) == 0
    assert capsys.readouterr().out.count("ok ") == 7
    assert run(["artifacts", "mirror", str(tmp_path / "mirror"), *inventory, *lock]) == 0
    assert (tmp_path / "mirror" / "k3s" / VERSION / "sha256sum-amd64.txt").read_text().count("\n") == 2
