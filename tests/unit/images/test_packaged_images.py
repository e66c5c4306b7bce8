"""k3s's own images: a lab's nodes import those of the components that it runs, and no others."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile

import pytest
import zstandard

from testbed.errors import LabError
from testbed.host.directories import testbed_home as home
from testbed.images.packaged import COMPONENT_IMAGES, packaged_images, planned_packaged
from testbed.lab.disks import Disks
from testbed.model.reading import read_inventory

NAMES = [
    "rancher/klipper-helm:v0.9.3-build20241008",
    "rancher/klipper-lb:v0.4.9",
    "rancher/local-path-provisioner:v0.0.31",
    "rancher/mirrored-coredns-coredns:1.12.0",
    "rancher/mirrored-library-busybox:1.36.1",
    "docker.io/rancher/mirrored-library-traefik:2.11.18",
    "rancher/mirrored-metrics-server:v0.7.2",
    "docker.io/rancher/mirrored-pause:3.6",
]
ALWAYS = ["docker.io/rancher/mirrored-pause:3.6", "rancher/mirrored-coredns-coredns:1.12.0"]


def layer(text):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo("content")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    return made.getvalue()


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def link(tar, name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    tar.addfile(info)


BASE = layer("base")


def saved(tar, folder="./"):
    """As `docker save` wrote it up to version 24: a folder a layer, and a link for one that an image before had."""
    manifest = []
    for number, name in enumerate(NAMES):
        own = layer(name)
        digests = [hashlib.sha256(content).hexdigest() for content in (BASE, own)]
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{d}" for d in digests]},
                "history": [{"created_by": "base"}, {"created_by": "own"}],
            }
        ).encode()
        place = f"{hashlib.sha256(config).hexdigest()}.json"
        add(tar, folder + place, config)
        if number == 0:
            add(tar, f"{folder}base0/layer.tar", BASE)
        else:
            link(tar, f"{folder}base{number}/layer.tar", f"../base{number - 1}/layer.tar")
        add(tar, f"{folder}own{number}/layer.tar", own)
        layers = [f"base{number}/layer.tar", f"own{number}/layer.tar"]
        manifest.append({"Config": place, "RepoTags": [name], "Layers": layers})
    add(tar, folder + "manifest.json", json.dumps(manifest).encode())
    add(tar, folder + "repositories", b"{}")


def laid_out(tar):
    """As it writes since version 25: blobs, told by docker's manifest and by an index."""
    manifest = []
    add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    add(tar, "index.json", b'{"manifests": []}')
    for name in NAMES:
        own = layer(name)
        config = json.dumps({"rootfs": {"diff_ids": [name]}}).encode()
        places = [f"blobs/sha256/{hashlib.sha256(content).hexdigest()}" for content in (config, own)]
        for place, content in zip(places, (config, own), strict=True):
            add(tar, place, content)
        manifest.append({"Config": places[0], "RepoTags": [name], "Layers": places[1:]})
    add(tar, "manifest.json", json.dumps(manifest).encode())


@pytest.fixture
def release(tmp_path):
    """Writes a release's archive and plans what is picked from it."""

    def write(fill, components=(), version="v1.35.6+k3s1"):
        folder = tmp_path / "artifacts" / "k3s" / version
        folder.mkdir(parents=True, exist_ok=True)
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as tar:
            fill(tar)
        source = folder / "k3s-airgap-images-amd64.tar.zst"
        source.write_bytes(zstandard.ZstdCompressor().compress(plain.getvalue()))
        return planned_packaged(source, components, tmp_path / "cache")

    return write


def read(path):
    """Name of an image -> the texts of its layers, through links; and all files there are."""
    with tarfile.open(path) as tar:
        found = {}
        for image in json.load(tar.extractfile("manifest.json")):
            assert place(tar, image["Config"]).isreg()
            for name in image["RepoTags"]:
                found[name] = [tar.extractfile(place(tar, at)).read() for at in image["Layers"]]
        return found, tar.getnames()


def place(tar, name):
    return next(m for m in tar.getmembers() if m.name.removeprefix("./") == name)


@pytest.mark.parametrize("fill", [saved, laid_out])
@pytest.mark.parametrize(
    ("components", "more"),
    [
        ((), []),
        (("metrics-server",), ["rancher/mirrored-metrics-server:v0.7.2"]),
        (("traefik", "servicelb"), [n for n in NAMES if "klipper" in n or "traefik" in n]),
        (("local-storage",), [n for n in NAMES if "local-path" in n or "busybox" in n]),
    ],
    ids=lambda v: "+".join(v) or "none" if isinstance(v, tuple) else "",
)
def test_nodes_get_the_images_of_what_the_lab_runs(release, fill, components, more):
    images, _ = read(packaged_images(release(fill, components)))
    assert sorted(images) == sorted([*ALWAYS, *more])
    for name, layers in images.items():
        assert layers[-1] == layer(name)
        assert layers[:-1] == ([BASE] if fill is saved else [])


def test_what_only_left_out_images_have_is_gone_and_shared_layers_stay(release):
    _, files = read(packaged_images(release(laid_out)))
    assert len(files) == 1 + 2 * len(ALWAYS)
    _, files = read(packaged_images(release(saved, version="v1.34.5+k3s1")))
    there = [f.removeprefix("./") for f in files]
    assert "own0/layer.tar" not in there, "klipper-helm's"
    assert {f"base{number}/layer.tar" for number in range(8)} <= set(there), "each leads to the one before"


def test_hard_links_are_followed(release):
    def fill(tar):
        add(tar, "a/layer.tar", BASE)
        add(tar, "c.json", b"{}")
        link(tar, "b/layer.tar", "a/layer.tar", tarfile.LNKTYPE)
        manifest = [
            {"Config": "c.json", "RepoTags": ["rancher/klipper-lb:1"], "Layers": ["a/layer.tar"]},
            {"Config": "c.json", "RepoTags": ["rancher/mirrored-pause:3.6"], "Layers": ["b/layer.tar"]},
        ]
        add(tar, "manifest.json", json.dumps(manifest).encode())

    images, _ = read(packaged_images(release(fill)))
    assert images == {"rancher/mirrored-pause:3.6": [BASE]}


def test_an_image_that_nobody_named_stays_and_so_does_a_second_name(release):
    def fill(tar):
        add(tar, "c.json", b"{}")
        manifest = [
            {"Config": "c.json", "RepoTags": None, "Layers": []},
            {"Config": "c.json", "RepoTags": ["rancher/klipper-lb:1", "mine.example:5000/kept:1"], "Layers": []},
        ]
        add(tar, "manifest.json", json.dumps(manifest).encode())

    with tarfile.open(packaged_images(release(fill))) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
    assert [image["RepoTags"] for image in manifest] == [None, ["mine.example:5000/kept:1"]]


def test_an_archive_in_another_format_is_taken_over_whole(release):
    def fill(tar):
        add(tar, "oci-layout", b"{}")
        add(tar, "index.json", b'{"manifests": []}')

    with tarfile.open(packaged_images(release(fill))) as tar:
        assert tar.getnames() == ["oci-layout", "index.json"]


def test_it_is_made_once_for_a_version_and_its_components(release):
    wanted = release(saved)
    made = packaged_images(wanted)
    wanted.source.unlink()
    assert packaged_images(wanted) == made
    others = [release(saved, ("traefik",)), release(saved, version="v1.36.1+k3s1")]
    assert len({made, *(o.archive for o in others)}) == 3


@pytest.mark.parametrize("content", [b"no zstd", zstandard.ZstdCompressor().compress(b"no tar" * 999)])
def test_an_archive_that_can_not_be_read_is_named_and_nothing_is_kept(release, content):
    wanted = release(saved)
    wanted.source.write_bytes(content)
    with pytest.raises(LabError, match=r"^k3s-airgap-images-amd64\.tar\.zst: pick its images: "):
        packaged_images(wanted)
    assert not wanted.archive.parent.exists()


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo: apt-get install skopeo")
def test_what_is_left_is_an_archive_that_others_read(release):
    made = packaged_images(release(lambda tar: saved(tar, "")))
    said = subprocess.run(
        ["skopeo", "inspect", f"docker-archive:{made}:{ALWAYS[0]}"], capture_output=True, check=True
    )
    assert len(json.loads(said.stdout)["Layers"]) == 2


def test_every_component_of_an_inventory_has_its_images_told():
    text = (home() / "inventories" / "k3s-small.yaml").read_text()
    every = read_inventory(
        text.replace("mesh:\n", f"cluster: {{components: [{', '.join(COMPONENT_IMAGES)}]}}\nmesh:\n", 1), "x"
    )
    assert set(every.cluster.components) == set(COMPONENT_IMAGES)
    none = read_inventory(text, "x")
    assert Disks.of(every).shared != Disks.of(none).shared
    assert Disks.of(none).releases["k3s/k3s-images.tar"] == Disks.of(none).packaged.archive
