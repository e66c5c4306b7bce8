"""istiod and Envoys as nodes' commands see them: they take up what is in a FakeApi, a question at a time."""

import json
import re

from testbed.backends.istio.places import ISTIOD_PORT
from testbed.errors import LabError
from testbed.guests import CommandFailed, Completed

_GROUPS = re.compile(r"^/apis/([^/]+)/")
_KINDS = ("Cluster", "Listener", "RouteConfiguration")


class FakeMesh:
    """``proxies``: address -> NAME.NAMESPACE.  A proxy has the newest witness once it was asked ``lag`` times."""

    def __init__(self, api, proxies, lag=0):
        self.api = api
        self.proxies = proxies
        self.istiod = "10.42.0.2"
        self.lag = lag
        self.down = set()
        self.dying = set()
        self.rejects = {}
        self.stats = "cluster_manager.warming_clusters: 0\n"
        self.asked = []
        self._seen = {}

    def answer(self, node, address, port, path):
        self.asked.append((node, address, port, path.partition("?")[0]))
        if address in self.down:
            raise CommandFailed(node, "bash", f"no namespace here has the address {address}")
        if (address, port) == (self.istiod, ISTIOD_PORT):
            return self._syncz() if path == "/debug/syncz" else self._configz()
        if path.startswith("/stats"):
            return self.stats
        if path == "/server_info":
            return json.dumps({"state": "LIVE"})
        assert path.startswith("/config_dump?resource=dynamic_active_clusters")
        return json.dumps({"configs": [{"cluster": {"name": n}} for n in self._clusters(address)]})

    def _clusters(self, address):
        witness = next(
            (o for p, o in self.api.objects.items() if p.endswith("envoyfilters/testbed-revision")), None
        )
        if witness is None:
            return []
        name = witness["spec"]["configPatches"][0]["patch"]["value"]["name"]
        asked, known = self._seen.get(address, (0, ""))
        asked = asked + 1 if name == known else 1
        self._seen[address] = (asked, name)
        return [name] if asked > self.lag else []

    def _configz(self):
        return json.dumps(
            [
                {**o, "apiVersion": _GROUPS.match(p)[1] + "/v1"}
                for p, o in self.api.objects.items()
                if "istio.io" in p
            ]
        )

    def _syncz(self):
        found = []
        for address, proxy in self.proxies.items():
            if address in self.down:
                continue
            sent = "2026-11-22T21:43:22Z/76416fd72-cf77-4407-b18c-0a9822b27bb8"
            types = {f"type.googleapis.com/x.{kind}": {"sent": sent, "acked": sent} for kind in _KINDS}
            if proxy in self.rejects:
                types["type.googleapis.com/x.Listener"]["lastError"] = self.rejects[proxy]
            found.append({"proxy": proxy, "resources": types})
        return json.dumps(found)


class FakeNode:
    """A node of a FakeMesh."""

    def __init__(self, name, mesh):
        self.node = name
        self.mesh = mesh
        self.commands = []
        self.named = []

    def run(self, argv, *, stdin=b"", limit=60, check=True):
        self.commands.append(list(argv))
        if argv[0] == "journalctl":
            return Completed(0, b"a line of the unit\n", b"")
        if argv[5].startswith("ss "):
            return Completed(0, b"", b"")
        if len(argv) == 6:  # a namespace is given a name
            self.named.append((argv[4], argv[5]))
            return Completed(0, b"", b"")
        address, _, port, *requests = argv[4:]
        if address in self.mesh.dying:
            return Completed(0, b"", b"")
        answers = [self.mesh.answer(self.node, address, int(port), r.split()[1]) for r in requests]
        return Completed(0, b"".join(b"HTTP/1.1 200 OK\r\n\r\n" + a.encode() + b"\0" for a in answers), b"")

    def stream(self, argv, *, stdin=b"", limit=600):
        raise LabError(self.node, "stream", "nobody needs it here")


def pod(api, name, labels, address, *, namespace="default", node="agent", phase="Running", **metadata):
    """Put a pod into the API."""
    api.objects[f"/api/v1/namespaces/{namespace}/pods/{name}"] = {
        "metadata": {"name": name, "namespace": namespace, "labels": labels, **metadata},
        "spec": {"nodeName": node},
        "status": {"phase": phase, "podIP": address},
    }
