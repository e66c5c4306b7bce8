"""Labs with k3s and Istio for the tests of this folder: of those versions that the mirror in TESTBED_MIRROR has."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))
from commands import COMMAND  # noqa: E402

from testbed.artifacts import read_catalogue  # noqa: E402

VERSIONS = {"cluster": "k3s", "mesh": "istio"}
"""Part of an inventory -> the product whose version it names."""

GROUPS = ("artifacts", "export", "snapshot")
"""Commands of two words."""


class MirroredLab:
    """An inventory of the project's, with versions that are there, and the program's commands for it."""

    def __init__(self, name, folder):
        if not os.environ.get("TESTBED_MIRROR"):
            pytest.skip("TESTBED_MIRROR names no mirror with k3s and Istio")
        self.name = name
        self.file = folder / f"{name}.yaml"
        self.file.write_text(with_versions((ROOT / "inventories" / f"{name}.yaml").read_text()))
        self.report = {}

    def name_versions(self, versions):
        """From now on its inventory names these: product -> version."""
        self.file.write_text(naming(self.file.read_text(), versions))

    def run(self, *words, status=0, limit=300):
        """Its output; ``status`` None: whatever it ends with."""
        name = 2 if words[0] in GROUPS else 1  # the command's own name comes before its options
        argv = [*COMMAND, *words[:name], "-i", str(self.file), *words[name:]]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit, check=False, cwd=ROOT)
        assert status is None or done.returncode == status, f"{words}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def pull(self):
        """The releases that its inventory names, into the cache."""
        self.run("artifacts", "pull", limit=600)

    def build(self, limit):
        """`up` from nothing; what it reports is kept, and told with its stages."""
        self.pull()
        try:
            self.report = json.loads(self.run("up", "--cold", "--json", limit=limit))
        except AssertionError:
            nodes = yaml.safe_load(self.file.read_text())["nodes"]
            for name in (n["name"] for n in nodes if n.get("cluster") == "server"):
                self.tell(
                    self.run("ssh", name, "--", "journalctl", "-u", "k3s", "-n", "200", "-o", "cat", status=None)
                )
            raise
        self.tell(f"up {self.report['seconds']} s: {self.report['stages']}")

    def tell(self, what):
        """A figure for who runs pytest with -s."""
        sys.stdout.write(f"{self.name}: {what}\n")

    def tell_memory(self, *nodes):
        """What each of them uses."""
        for node in nodes:
            self.tell(f"{node}: " + self.run("ssh", node, "--", "sh", "-c", "free -m | grep Mem:"))

    def build_again(self):
        """`up` after everything of the lab was taken down; what it reports."""
        self.run("reset", limit=600)
        self.run("down", limit=120)
        warm = json.loads(self.run("up", "--json", limit=600))
        self.tell(f"warm up {warm['seconds']} s")
        return warm

    def verdicts(self, *words, limit=1500):
        """Scenario -> its verdict."""
        return {v["scenario"]: v["verdict"] for v in json.loads(self.run("verify", "--json", *words, limit=limit))}


@contextmanager
def mirrored(name, folder, limit):
    """That lab, built within ``limit`` seconds, and down in the end."""
    made = MirroredLab(name, folder)
    try:
        made.build(limit)
        yield made
    finally:
        made.run("down", limit=120)


def mirrored_versions(product):
    """Those in the mirror that an inventory may name, oldest first."""
    catalogue = read_catalogue()
    there = (entry.name for entry in (Path(os.environ["TESTBED_MIRROR"]) / product).iterdir())
    return sorted((v for v in there if catalogue.has(product, v)), key=lambda v: [*map(int, re.findall(r"\d+", v))])


def with_versions(text):
    """The inventory, with the newest version in the mirror where the project's own is not there."""
    catalogue = read_catalogue()
    found = {product: mirrored_versions(product) for product in VERSIONS.values()}
    newest = {p: there[-1] for p, there in found.items() if there and catalogue.default(p) not in there}
    return naming(text, newest)


def naming(text, versions):
    """The inventory, which names these: product -> version."""
    data = yaml.safe_load(text)
    for part, product in VERSIONS.items():
        if product in versions:
            data.setdefault(part, {})["version"] = versions[product]
    return yaml.safe_dump(data, sort_keys=False)
