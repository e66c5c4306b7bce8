"""The container image of the sample services: packed for real by umoci and skopeo, over a small tree.

The tree itself, Debian's packages, is made here by a stand-in for mmdebstrap.
"""

import io
import json
import tarfile

import pytest

from testbed.errors import BadInput, HostNotReady, LabError
from testbed.host.directories import testbed_home as home
from testbed.images import samples
from testbed.images.samples import samples_image

RECIPE = home() / "images" / "samples"


@pytest.fixture
def programs(tmp_path):
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "echo.py").write_text("print('echo')\n")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "echo.pyc").write_text("not this")
    return folder


@pytest.fixture
def trees(monkeypatch):
    """What mmdebstrap was asked for."""
    asked = []

    def mmdebstrap(subject, options, release, target, work):
        asked.append((release, list(options)))
        with tarfile.open(target, "w") as tar:
            info = tarfile.TarInfo("usr/bin/python3")
            info.size = 5
            tar.addfile(info, io.BytesIO(b"#!bin"))

    monkeypatch.setattr(samples, "mmdebstrap", mmdebstrap)
    return asked


def read(archive):
    """The configuration of the image in an archive, its names, and its files."""
    files = {}
    with tarfile.open(archive) as outer:
        [manifest] = json.load(outer.extractfile("manifest.json"))
        config = json.load(outer.extractfile(manifest["Config"]))
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=outer.extractfile(layer)) as inner:
                files |= {m.name: (m.uid, inner.extractfile(m).read()) for m in inner.getmembers() if m.isfile()}
    return config, manifest["RepoTags"], files


def test_it_has_the_tree_and_the_programs_and_starts_python(trees, programs, tmp_path):
    image = samples_image(RECIPE, programs, tmp_path / "cache")
    config, names, files = read(image.archive)
    assert files == {"usr/bin/python3": (0, b"#!bin"), "opt/testbed/programs/echo.py": (0, b"print('echo')\n")}
    assert names == [image.reference]
    assert config["architecture"] == "amd64"
    assert config["config"] == {
        "User": "1338:1338",
        "Env": ["PATH=/usr/bin:/bin"],
        "Entrypoint": ["/usr/bin/python3", "-S", "-E", "-B"],
        "Cmd": ["/opt/testbed/programs/echo.py"],
    }
    [(release, options)] = trees
    assert release == "bookworm"
    assert "--include=python3-h2" in options
    assert {p.name for p in image.archive.parent.iterdir()} == {"samples.tar"}


def test_another_program_is_another_image_over_the_same_tree(trees, programs, tmp_path):
    first = samples_image(RECIPE, programs, tmp_path / "cache")
    assert samples_image(RECIPE, programs, tmp_path / "cache") == first
    (programs / "echo.py").write_text("print('other')\n")
    second = samples_image(RECIPE, programs, tmp_path / "cache")
    assert second.reference != first.reference
    assert read(second.archive)[2]["opt/testbed/programs/echo.py"][1] == b"print('other')\n"
    assert len(trees) == 1


def test_what_a_tool_says_last_is_the_cause_and_nothing_is_kept(trees, programs, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_REPOSITORY", "Not A Name")
    with pytest.raises(LabError, match=r"image samples: skopeo copy: .*invalid reference format"):
        samples_image(RECIPE, programs, tmp_path / "cache")
    assert list((tmp_path / "cache" / "samples").glob("[!.]*")) == []


def test_a_missing_tool_is_named_before_anything_is_built(trees, programs, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(HostNotReady, match="not installed: umoci, skopeo") as caught:
        samples_image(RECIPE, programs, tmp_path / "cache")
    assert caught.value.next_step == "apt-get install umoci skopeo"
    assert trees == []


def test_a_wrong_recipe_is_located(tmp_path, programs):
    (tmp_path / "recipe.yaml").write_text("release: bookworm\npackages: [python3]\nuser: 0\n")
    with pytest.raises(BadInput, match=r"recipe\.yaml:3:1: user"):
        samples_image(tmp_path, programs, tmp_path / "cache")
