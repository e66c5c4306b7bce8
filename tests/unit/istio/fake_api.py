"""A Kubernetes API on loopback with TLS: keeps objects, and answers in the forms that a real one answers in.

It merges nothing: an apply stores the manifest whole, which is what applying does to fields of one manager. The
same facts are tried on a real API server by tests/full.
"""

import http.server
import json
import re
import ssl
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from testbed.backends.istio.kubeconfig import Access
from testbed.pki import LabCa

_KINDS = {
    "networking.istio.io": {
        "VirtualService": "virtualservices",
        "DestinationRule": "destinationrules",
        "Gateway": "gateways",
        "EnvoyFilter": "envoyfilters",
        "WorkloadGroup": "workloadgroups",
    },
    "security.istio.io": {
        "PeerAuthentication": "peerauthentications",
        "AuthorizationPolicy": "authorizationpolicies",
    },
    "apps": {"Deployment": "deployments", "DaemonSet": "daemonsets"},
    "rbac.authorization.k8s.io": {
        "ClusterRole": "clusterroles",
        "ClusterRoleBinding": "clusterrolebindings",
        "Role": "roles",
        "RoleBinding": "rolebindings",
    },
    "admissionregistration.k8s.io": {
        "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
        "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
    },
    "": {
        "Namespace": "namespaces",
        "ConfigMap": "configmaps",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
        "Pod": "pods",
        "Node": "nodes",
    },
}
_OBJECT = re.compile(r"^/(?:apis/[^/]+|api)/[^/]+/(?:namespaces/([^/]+)/)?([a-z]+)/([^/]+)$")


@dataclass
class FakeApi:
    objects: dict = field(default_factory=dict)
    """Path -> manifest."""
    asked: list = field(default_factory=list)
    """(method, path, query)."""
    refusals: dict = field(default_factory=dict)
    """Name of an object -> (code, Status)."""
    hang_up: bool = False
    """Close the connection after the next answer, as an idle one is closed."""
    page: int = 500
    unknown: set = field(default_factory=set)
    """Kinds that are not defined yet."""
    tokens: list = field(default_factory=list)
    """What tokens were asked for."""
    version: int = 0
    """Of the last object that was stored."""
    evicted: list = field(default_factory=list)
    """Paths of pods."""
    on_evicted: Callable = lambda path: None
    """Is told the path of a pod that was evicted, and is gone already."""
    logs: dict = field(default_factory=dict)
    """Path -> text."""
    access: Access | None = None

    def writes(self):
        return [
            (m, p.rpartition("/")[2]) for m, p, q in self.asked if m in ("PATCH", "DELETE") and "dryRun" not in q
        ]

    def answer(self, method, target, body):
        url = urlsplit(target)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        self.asked.append((method, url.path, query))
        if url.path in self.logs:
            return 200, self.logs[url.path].encode()
        if url.path.endswith("/eviction"):
            return self._evict(url.path.removesuffix("/eviction"))
        if url.path.endswith("/token"):
            self.tokens.append(json.loads(body)["spec"])
            return 201, {"status": {"token": f"token-{len(self.tokens)}"}}
        root = re.match(r"^/(?:apis/([^/]+)|api)/v[^/]*$", url.path)
        if root:
            kinds = _KINDS.get(root[1] or "")
            if kinds is not None:
                kinds = {k: n for k, n in kinds.items() if k not in self.unknown}
            if kinds is None:
                return 404, b"404 page not found\n"
            return 200, {"resources": [{"kind": k, "name": n} for k, n in kinds.items()]}
        found = _OBJECT.match(url.path)
        if not found:
            return 200, self._listed(url.path.rpartition("/")[2], query)
        if method == "DELETE":
            return (200, {}) if self.objects.pop(url.path, None) else (404, self.status(404, "not found"))
        if method == "GET":
            there = self.objects.get(url.path)
            return (200, there) if there else (404, self.status(404, "not found"))
        if found[3] in self.refusals:
            return self.refusals[found[3]]
        manifest = json.loads(body)
        if "dryRun" not in query:
            self.version += 1
            stored = {
                **manifest,
                "metadata": {**manifest.get("metadata", {}), "resourceVersion": str(self.version)},
            }
            self.objects[url.path] = stored
        return 200, manifest

    def _evict(self, path):
        if self.objects.pop(path, None) is None:
            return 404, self.status(404, "not found")
        self.evicted.append(path)
        self.on_evicted(path)
        return 201, self.status(201, "evicted")

    def _listed(self, plural, query):
        name, _, value = query.get("labelSelector", "").partition("=")
        items = [
            {k: v for k, v in o.items() if k not in ("apiVersion", "kind")}
            for path, o in sorted(self.objects.items())
            if f"/{plural}/" in path and (not name or self._selected(o["metadata"].get("labels", {}), name, value))
        ]
        start = int(query.get("continue", 0))
        more = str(start + self.page) if len(items) > start + self.page else ""
        return {"items": items[start : start + self.page], "metadata": {"continue": more} if more else {}}

    @staticmethod
    def _selected(labels, name, value):
        return labels.get(name) == value if value else name in labels

    @staticmethod
    def status(code, message, causes=()):
        details = {"causes": [{"field": f, "message": m} for f, m in causes]}
        return {"kind": "Status", "code": code, "message": message, "details": details}


@contextmanager
def serving(tmp_path):
    """An API for the length of a block; it lets in only who shows a certificate of its CA."""
    ca = LabCa.create("api")
    server_side, client = ca.issue_server(["127.0.0.1"]), ca.issue_server(["admin"])
    api = FakeApi()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one packet: two would wait for an acknowledgement between them

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, answer = api.answer(self.command, self.path, body)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            if api.hang_up:
                api.hang_up = False
                self.close_connection = True

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any

        def log_message(self, *args):
            pass

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=ca.roots.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    (tmp_path / "server.pem").write_bytes(server_side.chain + server_side.key)
    context.load_cert_chain(tmp_path / "server.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    api.access = Access(
        "127.0.0.1",
        server.server_port,
        ca.roots.decode(),
        client.chain.decode(),
        client.key.decode(),
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
