"""What docs/howto/explain.md shows is what ``testbed explain`` prints; TESTBED_WRITE=1 renews the page."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from pathlib import Path

from testbed.compiler import compile_mesh
from testbed.compiler.simulator import explain, parse_request
from testbed.documents import parse
from testbed.model.reading import read_inventory, topology_of
from testbed.resources import load

HOME = Path(__file__).resolve().parents[3]


def test_the_pages_example_is_current() -> None:
    path = HOME / "docs/howto/explain.md"
    page = path.read_text()
    (shown,) = re.findall(r"```console\n\$ (.*?)```", page, re.DOTALL)
    command, _, output = shown.partition("\n")
    words = shlex.split(command)
    files = [w for before, w in itertools.pairwise(words) if before == "-f"]
    source, url = words[words.index("--from") + 1], words[-1]
    resources = load(d for f in files for d in parse((HOME / f).read_text(), f))
    topology = topology_of(read_inventory((HOME / "inventories/bookinfo.yaml").read_text(), "bookinfo.yaml"))
    told = explain(compile_mesh(resources, topology), topology, resources, parse_request(source, url))
    printed = "\n".join(told.lines()) + "\n"
    if os.environ.get("TESTBED_WRITE"):
        path.write_text(page.replace(output, printed))
    else:
        assert output == printed
