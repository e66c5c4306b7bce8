"""The API of a lab's cluster, by way of its servers: who may ask it, and a connection to it."""

from __future__ import annotations

from dataclasses import replace

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.kubeconfig import Access, read_access
from testbed.errors import LabError
from testbed.lab.lab import Lab
from testbed.model.clusters import API_PORT, api_address

KUBECONFIG = "/etc/rancher/k3s/k3s.yaml"


def access_of(lab: Lab) -> Access:
    """The cluster's API and the administrator's credentials, as the first server that answers has them.

    They are kept nowhere.  Raises LabError when no server has any.
    """
    trouble: LabError | None = None
    for server in lab.inventory.servers():
        try:
            found = lab.connection(server.name).run(["cat", KUBECONFIG], check=False)
        except LabError as e:
            trouble = trouble or e
            continue
        if found.status == 0:
            here = read_access(found.stdout.decode(), f"{server.name}:{KUBECONFIG}")
            return replace(here, host=api_address(lab.inventory), port=API_PORT)
    first = lab.inventory.servers()[0].name
    raise trouble or LabError(first, "read the cluster's kubeconfig", "there is none yet", "run: testbed up")


def api_of(lab: Lab) -> KubeApi:
    """A connection to the cluster's API, to be closed by the caller."""
    return KubeApi(access_of(lab), lab.network.dial)
