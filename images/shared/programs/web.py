"""A small HTTP/1.1 server and client on asyncio, for the sample services; callers of HTTP/2 go to ``h2c``.

The standard library's own server has no keep-alive with asyncio and takes long to import where machines are
emulated; this one imports little, and leaves TLS to the sidecar (which is why ``ssl`` is kept out below).
"""

import sys

sys.modules.setdefault("ssl", None)  # asyncio does without; loading OpenSSL is half of its start-up time

import asyncio  # noqa: E402
import json  # noqa: E402

LIMIT = 64 * 1024  # of a head; bodies may have sixteen times as much
REASONS = {200: "OK", 302: "Found", 303: "See Other", 400: "Bad Request", 404: "Not Found"}
REASONS |= {405: "Method Not Allowed", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable"}
REASONS |= {504: "Gateway Timeout", 413: "Content Too Large", 429: "Too Many Requests"}


class BadMessage(Exception):
    """The peer does not speak HTTP/1.1 as this program does."""


class Request:
    """``headers`` have lower-case names; of a name given twice the values are joined with a comma."""

    __slots__ = ("body", "headers", "method", "path", "query", "target", "version")

    def __init__(self, method, target, version, headers, body):
        self.method, self.target, self.version = method, target, version
        self.headers, self.body = headers, body
        self.path, _, self.query = target.partition("?")

    def parameters(self):
        """The query's parameters, or the form's in a POST: the last value of each name."""
        from urllib.parse import parse_qsl

        return dict(parse_qsl(self.body.decode("latin-1") if self.method == "POST" else self.query))

    def cookie(self, name):
        """A cookie's value, or nothing."""
        for part in self.headers.get("cookie", "").replace(",", ";").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                return value
        return ""


class Response:
    """``headers`` is a list of pairs; length and connection are added when it is sent."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status=200, body=b"", content_type="text/plain; charset=utf-8", headers=()):
        self.status, self.body = status, body.encode() if isinstance(body, str) else body
        self.headers = [("content-type", content_type), *headers]

    @classmethod
    def json(cls, value, status=200, headers=()):
        """A value as JSON."""
        return cls(status, json.dumps(value) + "\n", "application/json", headers)


def encode_head(first, headers):
    """A message's first line and header fields as bytes.  Line breaks in values would make fields: they go."""
    lines = [first] + [f"{k}: {str(v).translate({10: 32, 13: 32})}" for k, v in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


async def read_head(reader):
    """(first line's three parts, headers) of the next message; None when the peer has closed."""
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as e:
        if e.partial.strip():
            raise BadMessage("cut short") from None
        return None
    except asyncio.LimitOverrunError:
        raise BadMessage("the head is too long") from None
    first, *lines = data[:-4].decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadMessage("a header field without a colon")
        name, value = name.strip().lower(), value.strip()
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    if len(parts) < 2:
        raise BadMessage("the first line is no HTTP")
    return [*parts, ""][:3], headers


async def read_body(reader, headers, until_close=False):
    """The body that ``headers`` announce."""
    try:
        if "chunked" in headers.get("transfer-encoding", "").lower():
            chunks, total = [], 0
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                total += size
                if total > 16 * LIMIT:
                    raise BadMessage("the body is too long")
                chunks.append((await reader.readexactly(size + 2))[:-2])
            while (await reader.readuntil(b"\r\n")) != b"\r\n":
                pass  # trailers
            return b"".join(chunks)
        if "content-length" in headers:
            length = int(headers["content-length"])
            if not 0 <= length <= 16 * LIMIT:
                raise BadMessage("the body is too long")
            return await reader.readexactly(length) if length else b""
        return await reader.read() if until_close else b""
    except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as e:
        raise BadMessage(f"a body that ends early: {e}") from None


class Abort(Exception):
    """Raised by a handler: close the connection with a reset, without an answer."""


class Server:
    """Answers requests with ``handler`` (async, a Request in, a Response out), connection by connection."""

    def __init__(self, handler):
        self.handler = handler
        self.connections = 0

    async def listen(self, host, port):
        """Accept connections until the process ends."""
        await asyncio.start_server(self._connection, host, port, limit=LIMIT, backlog=1024)

    async def _connection(self, reader, writer):
        self.connections += 1
        number = 1
        try:
            while await self._exchange(reader, writer, number):
                number += 1
        except Abort:
            writer.transport.abort()
        except (OSError, BadMessage):
            pass
        finally:
            self.connections -= 1
            writer.close()

    async def _exchange(self, reader, writer, number):
        try:
            head = await read_head(reader)
            if head is None:
                return False
            (method, target, version), headers = head
            if (method, version) == ("PRI", "HTTP/2.0"):
                await self._http2(reader, writer)
                return False
            if headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await read_body(reader, headers)
        except BadMessage as e:
            writer.write(encode_head("HTTP/1.1 400 Bad Request", [("connection", "close")]) + str(e).encode())
            await writer.drain()
            return False
        request = Request(method, target, version, headers, body)
        try:
            response = await self.handler(request)
        except (Abort, asyncio.CancelledError):
            raise
        except Exception as e:  # noqa: BLE001 a bug in a handler is an answer, not a dead service
            print(f"{method} {target}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
            response = Response(500, f"{type(e).__name__}: {e}\n")
        keep = version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
        # which request of its connection it was: what a limit of requests for each connection is seen by
        fields = [*response.headers, ("x-connection-request", number), ("content-length", len(response.body))]
        if not keep:
            fields.append(("connection", "close"))
        first = f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Status')}"
        writer.write(encode_head(first, fields) + (b"" if method == "HEAD" else response.body))
        await writer.drain()
        return keep

    async def _http2(self, reader, writer):
        """The rest of a connection whose preface has been read as far as it looks like a head."""
        from h2c import Connection

        await Connection(self.handler, reader, writer, Request, Abort).serve()


class Client:
    """Requests to other services over kept connections."""

    def __init__(self):
        self.idle = {}

    async def get(self, host, port, path, headers, timeout):
        """(status, headers, body).  Raises OSError, BadMessage or TimeoutError; seconds for ``timeout``."""
        return await asyncio.wait_for(self._get(host, port, path, headers), timeout)

    async def _get(self, host, port, path, headers):
        pool = self.idle.setdefault((host, port), [])
        while pool:
            reader, writer = pool.pop()
            try:
                return await self._exchange(reader, writer, pool, host, path, headers)
            except (OSError, BadMessage):
                writer.close()  # closed while it was idle: not the other side's failure, so on a new one
        reader, writer = await asyncio.open_connection(host, port, limit=LIMIT)
        return await self._exchange(reader, writer, pool, host, path, headers)

    async def _exchange(self, reader, writer, pool, host, path, headers):
        done = False
        try:
            writer.write(encode_head(f"GET {path} HTTP/1.1", [("host", host), *headers]))
            head = await read_head(reader)
            if head is None:
                raise BadMessage("closed without an answer")
            (_, status, _), answered = head
            length_known = "content-length" in answered or "chunked" in answered.get("transfer-encoding", "")
            body = await read_body(reader, answered, until_close=True)
            if length_known and "close" not in answered.get("connection", "").lower():
                pool.append((reader, writer))
                done = True
            return int(status), answered, body
        finally:
            if not done:
                writer.close()
