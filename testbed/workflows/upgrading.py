"""Istio's control plane and its proxies from one revision to another, one after the other."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from testbed.backends.answers import body_of
from testbed.backends.guest import Guest
from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.distribution import read_syncz
from testbed.backends.istio.objects import LabObjects
from testbed.backends.istio.places import ISTIOD_PORT, ClusterPlaces, Place, exchange
from testbed.backends.istio.reaching import api_of
from testbed.backends.istio.revisions import REVISION_LABEL, SYSTEM, parts, revision_of
from testbed.lab.lab import Lab
from testbed.model.topology import MeshWorkload
from testbed.waiting import NotYet
from testbed.workflows.cluster import istio_version
from testbed.workflows.kubernetes import await_api

SYNCZ = "/debug/syncz"

UNUSED_LIMIT = 120.0
"""Seconds for istiod to notice that the last proxy has left."""


def roll_pods(
    objects: LabObjects, manifests: Sequence[Mapping[str, Any]], await_one: Callable[[Mapping[str, Any]], None]
) -> None:
    """Apply Deployments: those that are new, or serve nobody now, at once; then the others one after the other.

    Each of them is waited for by ``await_one``, so that callers never miss more than one workload.
    """
    serving = [m for m in manifests if objects.is_available(m)]
    idle = [m for m in manifests if m not in serving]
    objects.apply(idle)
    for manifest in idle if serving else ():
        await_one(manifest)
    for manifest in serving:
        objects.apply([manifest])
        await_one(manifest)


def await_sidecar(lab: Lab, api: KubeApi, workload: MeshWorkload, began: float, cancel: threading.Event) -> None:
    """Wait until the sidecar on a machine, (re)started after ``began`` (:func:`time.monotonic`), is served by the
    wanted revision's istiod."""
    places = _places(lab, api)
    proxy = Place(f"{workload.name}.{workload.namespace}", workload.node, str(workload.address), is_pod=False)

    def served() -> None:
        [info] = _get(lab, proxy, Guest().admin_port, "/server_info")
        said = json.loads(info)
        if float(said["uptime_all_epochs"].rstrip("s")) > time.monotonic() - began + 1:
            raise NotYet("the one from before still runs")
        if said["state"] != "LIVE":
            raise NotYet(f"it is {said['state']}")
        synced = read_syncz(_get(lab, places.istiod(), ISTIOD_PORT, SYNCZ)[0])
        if proxy.proxy not in synced:
            raise NotYet("it is not connected to istiod")
        if why := synced[proxy.proxy].lag:
            raise NotYet(f"it {why}")

    await_api(f"{workload.name} is served by {_revision(lab)}", served, cancel)


def retire_control_planes(lab: Lab, cancel: threading.Event) -> None:
    """Remove every revision but the wanted one, each once no proxy is connected to its istiod."""
    with closing(api_of(lab)) as api:
        objects, places = LabObjects(api, lab.id), _places(lab, api)
        there = await_api("the API says which revisions of Istio it has", objects.revisions, cancel)
        for revision in sorted(there - {_revision(lab)}):
            _await_unused(lab, places, revision, cancel)
            first, rest = parts(revision)
            await_api(f"the API lets go of istiod {revision}", partial(objects.remove, first), cancel)
            await_api(f"istiod {revision} has ended", partial(_ended, api, revision), cancel)
            await_api(f"the API lets go of what {revision} had", partial(objects.remove, rest), cancel)


def _await_unused(lab: Lab, places: ClusterPlaces, revision: str, cancel: threading.Event) -> None:
    def unused() -> None:
        for place in places.control_planes(revision):
            if connected := sorted(read_syncz(_get(lab, place, ISTIOD_PORT, SYNCZ)[0])):
                raise NotYet(f"connected: {', '.join(connected)}")

    await_api(
        f"no proxy is connected to istiod {revision}", unused, cancel, limit=UNUSED_LIMIT,
        next_step=f"label your own pods {REVISION_LABEL}={_revision(lab)}, then run: testbed up",
    )  # fmt: skip


def _ended(api: KubeApi, revision: str) -> None:
    left = api.every(api.path("v1", "Pod", SYSTEM), f"{REVISION_LABEL}={revision}")
    names = [p["metadata"]["name"] for p in left if p["metadata"]["labels"].get("app") == "istiod"]
    if names:
        raise NotYet(f"{', '.join(names)} ends")


def _get(lab: Lab, place: Place, port: int, *paths: str) -> list[bytes]:
    answers = lab.connection(place.node).run(exchange(place, port, *paths)).stdout.split(b"\0")[:-1]
    if len(answers) < len(paths) or not all(answers):
        raise NotYet(f"{place.proxy} gave no answer")
    return [body_of(said) for said in answers]


def _places(lab: Lab, api: KubeApi) -> ClusterPlaces:
    cluster = {n.name for n in lab.inventory.nodes if n.cluster is not None}
    return ClusterPlaces(api, lab.topology, cluster, _revision(lab))


def _revision(lab: Lab) -> str:
    return revision_of(istio_version(lab.inventory))
