"""What every sample service does beside its own work: say who it is, misbehave when told to, remember requests.

Environment: SERVICE, VERSION, INSTANCE, NODE, NAMESPACE, PORT (or PORTS, with commas), CONTROL_PORT (9901).

A request can make it misbehave: ``x-testbed-delay: 0.5`` (seconds), ``x-testbed-status: 503``; with
``x-testbed-delay-at`` / ``x-testbed-status-at: reviews`` (a service, ``service/version`` or an instance) only
there, however deep in the call.  ``x-testbed-alone: yes`` has it answer without calling the services behind it.
The control port, on the namespace's loopback, does so until told otherwise:

    GET  /control     the settings
    POST /control     {"delay": 0.5, "status": 503, "fail_rate": 0.2, "hang": true, "abort": true}; {"reset": true}
    GET  /requests?since=N   the requests after number N that came this far (the last 20,000 are kept)
    GET  /count              how many, and by status
"""

import asyncio
import collections
import json
import os
import socket

from web import Abort, BadMessage, Client, Response, Server

PROPAGATED = (
    *("x-request-id", "x-testbed-request", "traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid"),
    *("x-b3-parentspanid", "x-b3-sampled", "x-b3-flags", "x-ot-span-context", "end-user", "cookie", "user-agent"),
    *("x-testbed-delay-at", "x-testbed-status-at"),
)
KEPT_REQUESTS = 20_000
DEFAULTS = {"delay": 0.0, "status": 0, "fail_rate": 0.0, "hang": False, "abort": False}


class Identity:
    """Which instance this is, from the environment."""

    def __init__(self, environment=os.environ):
        self.service = environment.get("SERVICE", "service")
        self.version = environment.get("VERSION", "v1")
        self.instance = environment.get("INSTANCE") or f"{self.service}-{self.version}"
        self.node = environment.get("NODE") or socket.gethostname()
        self.namespace = environment.get("NAMESPACE", "default")

    def is_called(self, name):
        """Whether a header that names a service, ``service/version`` or an instance means this one."""
        return name in (self.service, f"{self.service}/{self.version}", self.instance)

    def fields(self):
        """As JSON bodies name it."""
        return {"service": self.service, "version": self.version, "instance": self.instance, "node": self.node}

    def headers(self):
        """As every answer's headers name it."""
        return [(f"x-{key}", value) for key, value in self.fields().items()]


class Service:
    """A service whose own work is ``answer``: async, (this, a Request) in, a Response out."""

    def __init__(self, answer, environment=os.environ):
        self.answer = answer
        self.identity = Identity(environment)
        self.settings = dict(DEFAULTS)
        self.client = Client()
        self.requests = collections.deque(maxlen=KEPT_REQUESTS)
        self.number = 0
        self.statuses = collections.Counter()
        self.timeout = float(environment.get("TIMEOUT", "6"))

    async def handle(self, request):
        """One request, with the misbehaviour that it or the settings ask for."""
        if request.path == "/health":
            return Response(200, "ok\n", headers=self.identity.headers())
        self.number += 1
        headers = request.headers
        entry = [self.number, headers.get("x-testbed-request") or headers.get("x-request-id", ""), 0]
        self.requests.append(entry)
        response = await self._misbehave(request) or await self.answer(self, request)
        entry[2] = response.status
        self.statuses[response.status] += 1
        response.headers += self.identity.headers()
        if "x-request-id" in headers:
            response.headers.append(("x-request-id", headers["x-request-id"]))
        return response

    async def _misbehave(self, request):
        settings = self.settings
        if settings["hang"]:
            await asyncio.Event().wait()
        delay = settings["delay"] + _number(self._told(request, "delay"))
        if delay > 0:
            await asyncio.sleep(delay)
        if settings["abort"]:
            raise Abort
        status = int(_number(self._told(request, "status")))
        if not status and (settings["status"] or settings["fail_rate"]):
            rate = settings["fail_rate"] or 1.0
            if int.from_bytes(os.urandom(4), "big") < rate * 2**32:
                status = settings["status"] or 503
        if not 200 <= status <= 599:
            return None
        return Response.json({**self.identity.fields(), "error": "told to answer so", "status": status}, status)

    def _told(self, request, what):
        at = request.headers.get(f"x-testbed-{what}-at", "")
        return request.headers.get(f"x-testbed-{what}", "") if not at or self.identity.is_called(at) else ""

    async def call(self, service, path, request):
        """Another service's JSON answer, or ``{"error": ...}``: a page is shown whatever is behind it."""
        if "x-testbed-alone" in request.headers:
            return {"error": f"told not to call {service}", "status": 0}
        headers = [(name, request.headers[name]) for name in PROPAGATED if name in request.headers]
        for what in ("delay", "status"):  # an order without an address was for us alone
            if f"x-testbed-{what}-at" in request.headers and f"x-testbed-{what}" in request.headers:
                headers.append((f"x-testbed-{what}", request.headers[f"x-testbed-{what}"]))
        if user := request.cookie("session"):
            headers = [h for h in headers if h[0] != "end-user"] + [("end-user", user)]
        host, _, port = os.environ.get(f"{service.upper()}_ADDRESS", f"{service}:9080").partition(":")
        try:
            status, _, body = await self.client.get(host, int(port or 80), path, headers, self.timeout)
            value = json.loads(body) if status == 200 else {}
        except TimeoutError:
            return {"error": f"{service} did not answer within {self.timeout:g} s", "status": 0}
        except (OSError, BadMessage, ValueError) as e:
            return {"error": f"{service} can't be reached: {e}", "status": 0}
        return value if status == 200 else {"error": f"{service} answered {status}", "status": status}

    async def control(self, request):
        """The control port's answers."""
        if request.path == "/control":
            if request.method == "POST":
                problem = self._set(request.body)
                if problem:
                    return Response.json({"error": problem}, 400)
            return Response.json(self.settings)
        if request.path == "/requests":
            since = request.parameters().get("since", "")
            since = int(since) if since.isdigit() else 0
            found = [{"number": n, "id": i, "status": s} for n, i, s in self.requests if n > since]
            return Response.json({"last": self.number, "requests": found})
        if request.path == "/count":
            return Response.json({"requests": self.number, "statuses": dict(self.statuses)})
        return Response.json({"error": "there are /control, /requests and /count"}, 404)

    def _set(self, body):
        try:
            wanted = json.loads(body)
        except ValueError as e:
            return f"not JSON: {e}"
        if not isinstance(wanted, dict):
            return "expected an object"
        settings = dict(DEFAULTS) if wanted.pop("reset", False) else dict(self.settings)
        for key, value in wanted.items():
            if key not in DEFAULTS:
                return f"unknown setting {key!r}; there are {', '.join(DEFAULTS)} and reset"
            kind = type(DEFAULTS[key])
            if not isinstance(value, int | float) or (kind is bool) != isinstance(value, bool):
                return f"{key} wants {'true or false' if kind is bool else 'a number'}"
            settings[key] = kind(value)
        self.settings = settings
        return ""

    async def serve(self):
        """Listen until the process ends."""
        ports = os.environ.get("PORTS") or os.environ.get("PORT", "9080")
        await Server(self.control).listen("127.0.0.1", int(os.environ.get("CONTROL_PORT", "9901")))
        for port in ports.split(","):
            await Server(self.handle).listen("0.0.0.0", int(port))
        await asyncio.Event().wait()


def _number(text):
    try:
        return max(0.0, min(float(text), 600.0)) if text else 0.0
    except ValueError:
        return 0.0


def run(answer):
    """Be the service until killed."""
    asyncio.run(Service(answer).serve())
