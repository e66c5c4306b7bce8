"""The Kubernetes API over a socket that the caller makes: it may lie in a lab's namespace."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from testbed.backends.istio.kubeconfig import Access
from testbed.errors import LabError, MeshError

Dial = Callable[[str, int, float], socket.socket]

FIELD_MANAGER = "testbed"
"""Whose fields ours are in server-side apply; other managers' fields are left alone."""

_PAGE = 500


@dataclass(frozen=True)
class Cause:
    """One thing that the API found wrong; ``field`` as ``spec.http[0].route``, empty when it names none."""

    field: str
    message: str


class ApiRefused(MeshError):
    """The API answered with an error."""

    def __init__(self, subject: str, action: str, code: int, message: str, causes: tuple[Cause, ...]) -> None:
        super().__init__(subject, action, f"{message} ({code})")
        self.code = code
        self.message = message
        self.causes = causes


class KubeApi:
    """A cluster's API.  One connection, kept; safe to use from several threads."""

    def __init__(self, access: Access, dial: Dial, limit: float = 30) -> None:
        self._access = access
        self._dial = dial
        self._limit = limit
        self._context = _context(access)
        self._connection: _Connection | None = None
        self._lock = threading.Lock()
        self._resources: dict[str, dict[str, str]] = {}

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def path(self, api_version: str, kind: str, namespace: str = "", name: str = "") -> str:
        """The path of a resource, or of all of a kind.  Raises :class:`ApiRefused` (404) for an unknown kind."""
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        if api_version not in self._resources:
            found = self.get(root)["resources"]
            self._resources[api_version] = {r["kind"]: r["name"] for r in found if "/" not in r["name"]}
        plural = self._resources[api_version].get(kind)
        if plural is None:
            del self._resources[api_version]  # it may be defined meanwhile
            raise ApiRefused(f"{api_version} {kind}", "find it in the API", 404, "the cluster has no such kind", ())
        middle = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{middle}/{plural}" + (f"/{name}" if name else "")

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What lies at ``path``."""
        return self._ask("GET", path, query or {})

    def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """What lies at ``path`` and is no object: a container's log."""
        return self._send("GET", path, query or {}).decode(errors="replace")

    def every(self, path: str, selector: str = "") -> Iterator[dict[str, Any]]:
        """All items at ``path`` with these labels, page by page."""
        query = {"limit": str(_PAGE)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = self.get(path, query)
            yield from page["items"]
            following = page.get("metadata", {}).get("continue", "")
            if not following:
                return
            query["continue"] = following

    def apply(
        self, path: str, manifest: Mapping[str, Any], *, dry_run: bool = False, manager: str = FIELD_MANAGER
    ) -> dict[str, Any]:
        """Server-side apply of the fields in ``manifest``, which ``manager`` owns then; what the object is then.

        ``dry_run``: all of admission is gone through and nothing is stored.  Fields that somebody else manages
        are taken over: the files that are applied are what counts.
        """
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        body = json.dumps(manifest).encode()
        query |= {"dryRun": "All"} if dry_run else {}
        return self._ask("PATCH", path, query, body, "application/apply-patch+yaml")

    def post(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create what answers a question (a TokenRequest); what the API says.  Asking twice does no harm."""
        return self._ask("POST", path, {}, json.dumps(manifest).encode(), "application/json")

    def delete(self, path: str) -> None:
        """Delete what lies at ``path``; nothing there is as good."""
        try:
            self._ask("DELETE", path, {})
        except ApiRefused as e:
            if e.code != 404:
                raise

    def _ask(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None = None, kind: str = ""
    ) -> dict[str, Any]:
        return dict(json.loads(self._send(method, path, query, body, kind)))

    def _send(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None = None, kind: str = ""
    ) -> bytes:
        target = path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json"} | ({"Content-Type": kind} if kind else {})
        where = f"{self._access.host}:{self._access.port}"
        try:
            status, answer = self._exchange(method, target, body, headers)
        except (OSError, http.client.HTTPException) as e:
            raise LabError(
                f"API {where}", f"{method} {path}", str(e) or type(e).__name__, "testbed status"
            ) from None
        if status >= 400:
            raise _refused(method, path, status, answer)
        return answer

    def _exchange(self, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        with self._lock:
            kept = self._connection is not None
            try:
                return self._once(method, target, body, headers)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._drop()
                if not kept:
                    raise
                # the server closed a connection that was idle; all that is asked here may be asked twice
                return self._once(method, target, body, headers)
            except (OSError, http.client.HTTPException):
                self._drop()
                raise

    def _once(self, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = _Connection(self._access, self._dial, self._context, self._limit)
        self._connection.request(method, target, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Connection(http.client.HTTPConnection):
    """HTTP over TLS over a dialed socket."""

    def __init__(self, access: Access, dial: Dial, context: ssl.SSLContext, limit: float) -> None:
        super().__init__(access.host, access.port, timeout=limit)
        self._limit = limit
        self._made_by = dial
        self._secured_by = context

    def connect(self) -> None:
        """Dial, then shake hands."""
        plain = self._made_by(self.host, self.port, self._limit)
        plain.settimeout(self._limit)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._secured_by.wrap_socket(plain, server_hostname=self.host)


def _context(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=access.ca)
    # OpenSSL reads keys from files only: one that nobody else reads, for as long as that takes
    with tempfile.NamedTemporaryFile("w", prefix="testbed-") as file:
        file.write(access.certificate.rstrip("\n") + "\n" + access.key)
        file.flush()
        context.load_cert_chain(Path(file.name))
    return context


def _refused(method: str, path: str, code: int, answer: bytes) -> ApiRefused:
    message = answer.decode(errors="replace").strip()[:500] or http.client.responses.get(code, "")
    causes: tuple[Cause, ...] = ()
    try:
        status = json.loads(answer)
    except ValueError:
        status = {}
    if isinstance(status, dict) and status.get("kind") == "Status":
        message = status.get("message", message)
        found = (status.get("details") or {}).get("causes") or []
        # a cause's field is "<nil>" when a rule is about the whole object
        causes = tuple(Cause(c.get("field", "").replace("<nil>", ""), c.get("message", "")) for c in found)
    return ApiRefused("API", f"{method} {path}", code, message, causes)
