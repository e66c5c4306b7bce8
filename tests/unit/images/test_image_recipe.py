"""Recipes: what is read, what names the built image, and how mistakes are told."""

from pathlib import Path

import pytest

from testbed.errors import BadInput
from testbed.images import image_key, load_recipe

REPOSITORY = Path(__file__).parents[3]
RECIPE = """\
release: bookworm
kernel: linux-image-cloud-amd64
packages: [udev]
initrd: [virtio_blk]
"""


@pytest.fixture
def folder(tmp_path):
    top = tmp_path / "tiny"
    (top / "files/etc").mkdir(parents=True)
    (top / "recipe.yaml").write_text(RECIPE)
    (top / "init").write_text("#!/bin/sh\n")
    (top / "files/etc/motd").write_text("hello\n")
    return top


def test_the_shipped_recipe_is_valid():
    shipped = load_recipe(REPOSITORY / "images/debian-12")
    assert shipped.recipe.release == "bookworm"
    assert "usr/lib/testbed/seed" in [f.path for f in shipped.files if f.executable]


def test_the_key_follows_every_input_and_nothing_else(folder):
    first = image_key(load_recipe(folder))
    (folder / "files/etc/__pycache__").mkdir()
    (folder / "files/etc/__pycache__/x.pyc").write_bytes(b"x")
    assert image_key(load_recipe(folder)) == first
    seen = {first}
    (folder / "files/etc/motd").write_text("other\n")
    seen.add(image_key(load_recipe(folder)))
    (folder / "files/etc/motd").chmod(0o755)
    seen.add(image_key(load_recipe(folder)))
    (folder / "init").write_text("#!/bin/sh\n:\n")
    seen.add(image_key(load_recipe(folder)))
    (folder / "recipe.yaml").write_text(RECIPE + "mask: [getty.target]\n")
    seen.add(image_key(load_recipe(folder)))
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("packages: [udev, 'rm -rf']", "packages[1]"),
        ("mask: ['a b.service']", "mask[0]"),
        ("colour: red", "colour"),
        ("size: 3", "size"),
    ],
)
def test_a_mistake_is_located(folder, line, field):
    kept = [text for text in RECIPE.splitlines() if text.split(":")[0] != line.split(":")[0]]
    (folder / "recipe.yaml").write_text("\n".join([*kept, line]))
    with pytest.raises(BadInput) as caught:
        load_recipe(folder)
    assert caught.value.problems[0].location.field == field
    assert caught.value.problems[0].location.line == len(kept) + 1


def test_an_unknown_recipe_names_those_that_exist(folder):
    with pytest.raises(BadInput) as caught:
        load_recipe(folder.parent / "huge")
    assert "tiny" in caught.value.next_step
