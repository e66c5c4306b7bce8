#!/usr/bin/env python3
"""Sends requests and reports each of them: runs inside a workload's network namespace, or on the host.

One JSON object on standard input says what to send (see ``Plan``); the answer is JSON lines on standard output:
one ``{"start": ...}``, batches ``[[seq, variant, status, sent, took, connection, headers, error, body], ...]``
about five times a second, one ``{"end": ...}``.  Times are microseconds of the monotonic clock, ``sent`` since
the start.  It ends early when nobody reads its output any more.

It is cheap on purpose (emulated machines are slow): one thread, one selector, a parser of its own, and none of
the standard library's HTTP.  HTTP/2 needs python3-h2.

gRPC is HTTP/2 with one message each way: the body given is the message, a sample's body the answered message (or
the error's text), and its status the HTTP status that the grpc-status stands for (google.rpc.Code's table).
"""

import errno
import json
import os
import selectors
import socket
import sys
import time
from collections import deque

FLUSH_SECONDS = 0.2
BODY_LIMIT = 1 << 20
FRAME_LIMIT = 1 << 14  # of HTTP/2, unless a peer allows more: a request's body is one frame
# grpc-status -> HTTP status, as google/rpc/code.proto has them; from 0 (OK) to 16 (UNAUTHENTICATED)
GRPC_STATUSES = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)


class Plan:
    """What to send.  ``variants`` are taken in turn; each has method, path, headers and body."""

    def __init__(self, spec):
        self.run = spec["run"]
        self.address = (spec["address"], spec["port"])
        self.authority = spec["authority"]
        self.count = spec["count"]
        self.concurrency = spec.get("concurrency", 1)
        self.rate = spec.get("rate")
        self.reuse = spec.get("reuse", True)
        self.timeout = spec.get("timeout", 10.0)
        self.grpc = spec.get("protocol", "http1") == "grpc"
        self.http2 = self.grpc or spec.get("protocol", "http1") == "http2"
        self.keep = [name.lower().encode() for name in spec.get("keep", [])]
        self.keep += [b"grpc-status"] if self.grpc else []
        self.body_bytes = spec.get("body_bytes", 200)
        self.variants = spec["variants"]
        self.heads = [self._head(v) for v in self.variants]

    def _head(self, v):
        """An HTTP/1.1 request as (all up to the id, all after it)."""
        body = v.get("body", "").encode()
        lines = [f"{v['method']} {v['path']} HTTP/1.1", f"host: {self.authority}"]
        lines += [f"{k}: {value}" for k, value in v["headers"]]
        if body or v["method"] in ("POST", "PUT", "PATCH"):
            lines.append(f"content-length: {len(body)}")
        if not self.reuse:
            lines.append("connection: close")
        return "\r\n".join(lines).encode() + b"\r\n", b"\r\n\r\n" + body

    def request(self, seq):
        """The bytes of request ``seq`` in HTTP/1.1."""
        before, after = self.heads[seq % len(self.heads)]
        name = f"{self.run}-{seq}".encode()
        return before + b"x-request-id: " + name + b"\r\nx-testbed-request: " + name + after

    def fields(self, seq):
        """The header fields of request ``seq`` in HTTP/2, and its body."""
        v = self.variants[seq % len(self.variants)]
        name = f"{self.run}-{seq}"
        fields = [
            (":method", v["method"]),
            (":scheme", "http"),
            (":authority", self.authority),
            (":path", v["path"]),
        ]
        fields += [(k.lower(), value) for k, value in v["headers"]]
        fields += [("x-request-id", name), ("x-testbed-request", name)]
        body = v.get("body", "").encode()
        if self.grpc:
            fields += [("content-type", "application/grpc"), ("te", "trailers")]
            body = b"\0" + len(body).to_bytes(4, "big") + body
        return fields, body


class Exchange:
    """One request that is under way."""

    __slots__ = ("body", "due", "error", "headers", "sent", "seq", "status")

    def __init__(self, seq, due):
        self.seq = seq
        self.due = due
        self.sent = 0.0
        self.status = 0
        self.headers = {}
        self.body = b""
        self.error = ""


class Http1:
    """A connection with one request at a time."""

    capacity = 1

    def __init__(self, plan):
        self.plan = plan
        self.current = None
        self.answered = False
        self.closing = False
        self._reset()

    def _reset(self):
        self.buffer = b""
        self.head_done = False
        self.left = 0  # bytes of the body still to come; -1 chunked, -2 until the peer closes

    def start(self, exchange):
        self.current = exchange
        self.answered = False
        self._reset()
        return self.plan.request(exchange.seq)

    def in_flight(self):
        return [self.current] if self.current else []

    def receive(self, data):
        """Take bytes (none: the peer closed); return (exchanges that ended, bytes to send)."""
        if self.current is None:
            self.closing = True  # closed while idle, or bytes that nobody asked for
            return [], b""
        if not data:
            self.closing = True
            if self.head_done and self.left == -2:
                return [self._end("")], b""
            return [self._end("the connection was closed before the answer")], b""
        self.buffer += data
        while not self.head_done:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return [], b""
            self.buffer = rest
            try:
                self._head(head)
            except (ValueError, IndexError):
                self.closing = True
                return [self._end("the answer is not HTTP/1.1")], b""
        return ([self._end("")], b"") if self._body_done() else ([], b"")

    def _head(self, head):
        lines = head.split(b"\r\n")
        status = int(lines[0].split(b" ", 2)[1])
        if status < 200:
            return  # an interim answer; the final one follows
        self.head_done = True
        self.current.status = status
        self.left = -2
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip()
            if name == b"content-length":
                self.left = int(value)
            elif name == b"transfer-encoding" and b"chunked" in value.lower():
                self.left = -1
            elif name == b"connection" and value.lower() == b"close":
                self.closing = True
            if name in self.plan.keep:
                self.current.headers[name.decode()] = value.decode("latin-1")
        method = self.plan.variants[self.current.seq % len(self.plan.variants)]["method"]
        if status in (204, 304) or method == "HEAD":
            self.left = 0

    def _body_done(self):
        if self.left >= 0:
            return len(self.buffer) >= self.left
        if len(self.buffer) > BODY_LIMIT:
            self.closing = True
            return True
        # the last chunk may carry trailers; Envoy and our programs send none
        return self.left == -1 and self.buffer.endswith(b"0\r\n\r\n")

    def _end(self, error):
        exchange, self.current = self.current, None
        exchange.error = error
        exchange.body = self.buffer if self.left != -1 else _dechunk(self.buffer)
        return exchange


class Http2:
    """A connection (prior knowledge, RFC 9113 3.3) that carries many requests at once."""

    def __init__(self, plan):
        import h2.config
        import h2.connection
        import h2.events
        import h2.exceptions

        self.plan = plan
        self.events = h2.events
        self.failures = h2.exceptions.ProtocolError
        self.capacity = plan.concurrency if plan.reuse else 1
        self.streams = {}
        self.waiting = deque()  # bodies that the peer has no room for yet
        self.closing = False
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.connection.initiate_connection()

    def start(self, exchange):
        stream = self.connection.get_next_available_stream_id()
        fields, body = self.plan.fields(exchange.seq)
        self.connection.send_headers(stream, fields, end_stream=not body)
        self.streams[stream] = exchange
        if body:
            self.waiting.append((stream, body))
            self._send_bodies()
        return self.connection.data_to_send()

    def _send_bodies(self):
        while self.waiting:
            stream, body = self.waiting[0]
            wanted = stream in self.streams
            if wanted and self.connection.local_flow_control_window(stream) < len(body):
                return
            self.waiting.popleft()
            if wanted:
                self.connection.send_data(stream, body, end_stream=True)

    def in_flight(self):
        return list(self.streams.values())

    def receive(self, data):
        if not data:
            self.closing = True
            return self._end_all("the connection was closed before the answer"), b""
        try:
            events = self.connection.receive_data(data)
        except self.failures as e:
            self.closing = True
            return self._end_all(f"the answer is not HTTP/2: {e}"), b""
        ended = []
        for event in events:
            exchange = self.streams.get(getattr(event, "stream_id", None))
            if isinstance(event, self.events.ConnectionTerminated):
                self.closing = True
            elif exchange is None:
                continue
            elif isinstance(event, self.events.ResponseReceived | self.events.TrailersReceived):
                for name, value in event.headers:
                    if name == ":status":
                        exchange.status = int(value)
                    elif name == "grpc-message" and self.plan.grpc:
                        exchange.headers[name] = _percent_decoded(value)
                    elif name.encode() in self.plan.keep:
                        exchange.headers[name] = value
            elif isinstance(event, self.events.DataReceived):
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if len(exchange.body) < BODY_LIMIT:
                    exchange.body += event.data
            elif isinstance(event, self.events.StreamReset):
                exchange.error = f"the stream was reset (code {event.error_code})"
                ended.append(self.streams.pop(event.stream_id))
            elif isinstance(event, self.events.StreamEnded):
                ended.append(self.streams.pop(event.stream_id))
                if self.plan.grpc:
                    _read_grpc(exchange)
        self._send_bodies()
        return ended, self.connection.data_to_send()

    def _end_all(self, error):
        ended = list(self.streams.values())
        self.streams.clear()
        for exchange in ended:
            exchange.error = error
        return ended


class Link:
    """A socket with the protocol that it speaks."""

    def __init__(self, number, plan):
        self.number = number
        self.protocol = Http2(plan) if plan.http2 else Http1(plan)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.out = b""
        self.events = 0
        self.used = 0
        self.failed = self.socket.connect_ex(plan.address)

    def room(self):
        return self.protocol.capacity - len(self.protocol.in_flight())


class Agent:
    """Keeps ``concurrency`` requests under way (closed loop), or sends at ``rate`` whatever happens (open loop)."""

    def __init__(self, plan, output):
        self.plan = plan
        self.output = output
        self.selector = selectors.DefaultSelector()
        self.links = []
        self.numbers = 0
        self.next_seq = 0
        self.ended = 0
        self.results = []
        self.began = time.monotonic()
        self.deadlines = deque()

    def run(self):
        last_flush = self.began
        while self.ended < self.plan.count:
            self.launch()
            for key, mask in self.selector.select(self.pause()):
                self.serve(key.data, mask)
            now = time.monotonic()
            self.expire(now)
            if self.results and now - last_flush >= FLUSH_SECONDS:
                self.flush()
                last_flush = now
        self.flush()

    def launch(self):
        while self.next_seq < self.plan.count:
            now = time.monotonic()
            due = now
            if self.plan.rate:
                due = self.began + self.next_seq / self.plan.rate
                if due > now:
                    return
            elif self.next_seq - self.ended >= self.plan.concurrency:
                return
            exchange = Exchange(self.next_seq, due)
            self.next_seq += 1
            link = self.free_link()
            exchange.sent = time.monotonic()
            self.deadlines.append((exchange.sent + self.plan.timeout, exchange, link))
            link.used += 1
            link.out += link.protocol.start(exchange)
            self.push(link)

    def free_link(self):
        if self.plan.reuse:
            for link in self.links:
                if link.room() > 0 and not link.protocol.closing:
                    return link
        self.numbers += 1
        link = Link(self.numbers, self.plan)
        self.links.append(link)
        return link

    def push(self, link):
        """Send what can be sent now, and wait for the rest."""
        if link.failed not in (0, errno.EINPROGRESS):
            self.broken(link, OSError(link.failed, os.strerror(link.failed)))
            return
        if link.out:
            try:
                sent = link.socket.send(link.out)
                link.out = link.out[sent:]
            except BlockingIOError:
                pass
            except OSError as e:
                if e.errno != errno.ENOTCONN:  # it is still connecting
                    self.broken(link, e)
                    return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.out else 0)
        if wanted != link.events:
            if link.events:
                self.selector.modify(link.socket, wanted, link)
            else:
                self.selector.register(link.socket, wanted, link)
            link.events = wanted

    def serve(self, link, mask):
        if link not in self.links:
            return
        if mask & selectors.EVENT_WRITE:
            failed = link.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                self.broken(link, OSError(failed, os.strerror(failed)))
                return
            self.push(link)
        if mask & selectors.EVENT_READ and link in self.links:
            try:
                data = link.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as e:
                self.broken(link, e)
                return
            ended, reply = link.protocol.receive(data)
            link.out += reply
            for exchange in ended:
                self.record(exchange, link)
            if (link.protocol.closing and not link.protocol.in_flight()) or (not self.plan.reuse and ended):
                self.drop(link)
            else:
                self.push(link)

    def broken(self, link, error):
        for exchange in link.protocol.in_flight():
            exchange.error = error.strerror or str(error)
            self.record(exchange, link)
        self.drop(link)

    def drop(self, link):
        if link.events:
            self.selector.unregister(link.socket)
        link.socket.close()
        self.links.remove(link)

    def expire(self, now):
        while self.deadlines and self.deadlines[0][0] <= now:
            _, exchange, link = self.deadlines.popleft()
            if link in self.links and exchange in link.protocol.in_flight():
                # HTTP/2 could reset one stream; a caller that gives up closes, which tells the proxy as well
                for other in link.protocol.in_flight():
                    other.error = f"no answer within {self.plan.timeout:g} s"
                    self.record(other, link)
                self.drop(link)

    def pause(self):
        now = time.monotonic()
        until = [now + FLUSH_SECONDS]
        if self.plan.rate and self.next_seq < self.plan.count:
            until.append(self.began + self.next_seq / self.plan.rate)
        if self.deadlines:
            until.append(self.deadlines[0][0])
        return max(0.0, min(until) - now)

    def record(self, exchange, link):
        now = time.monotonic()
        self.ended += 1
        begun = exchange.due if self.plan.rate else exchange.sent  # an open loop counts its own lateness in
        body = exchange.body[: self.plan.body_bytes].decode("utf-8", "replace")
        self.results.append(
            (
                exchange.seq,
                exchange.seq % len(self.plan.variants),
                0 if exchange.error else exchange.status,
                int((begun - self.began) * 1e6),
                int((now - begun) * 1e6),
                link.number,
                exchange.headers,
                exchange.error,
                body,
            )
        )

    def flush(self):
        if self.results:
            self.emit(self.results)
            self.results = []

    def emit(self, value):
        self.output.write(json.dumps(value, separators=(",", ":")) + "\n")
        self.output.flush()


def _read_grpc(exchange):
    """Status and message of a gRPC answer.  One without a grpc-status has UNKNOWN, unless HTTP itself failed."""
    told = exchange.headers.get("grpc-status", "")
    if told.isdigit() and int(told) < len(GRPC_STATUSES):
        exchange.status = GRPC_STATUSES[int(told)]
    elif exchange.status == 200:
        exchange.status = 500
    message = exchange.headers.pop("grpc-message", "")
    exchange.body = exchange.body[5:] if exchange.status == 200 else message.encode()


def _percent_decoded(text):
    from urllib.parse import unquote

    return unquote(text)


def _dechunk(data):
    out = []
    while data:
        size, _, rest = data.partition(b"\r\n")
        try:
            length = int(size.split(b";")[0], 16)
        except ValueError:
            break
        if not length:
            break
        out.append(rest[:length])
        data = rest[length + 2 :]
    return b"".join(out)


def main():
    plan = Plan(json.load(sys.stdin))
    try:
        plan.address = (socket.gethostbyname(plan.address[0]), plan.address[1])
    except OSError as e:
        print(json.dumps({"failed": f"{plan.address[0]}: {e.strerror or e}"}), flush=True)
        return 1
    if plan.http2 and any(len(plan.fields(i)[1]) > FRAME_LIMIT for i in range(len(plan.variants))):
        print(json.dumps({"failed": f"over HTTP/2 a body has at most {FRAME_LIMIT} bytes"}), flush=True)
        return 1
    if plan.http2:
        try:
            import h2  # noqa: F401
        except ImportError:
            print(json.dumps({"failed": "HTTP/2 needs python3-h2 on the node"}), flush=True)
            return 1
    agent = Agent(plan, sys.stdout)
    try:
        agent.emit({"start": {"pid": os.getpid(), "clock": time.time(), "monotonic": agent.began}})
        agent.run()
        agent.emit(
            {
                "end": {
                    "sent": agent.next_seq,
                    "seconds": round(time.monotonic() - agent.began, 6),
                    "cpu": round(time.process_time(), 6),
                    "connections": agent.numbers,
                }
            }
        )
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)  # nobody listens any more: the reader has what it needs
    return 0


if __name__ == "__main__":
    sys.exit(main())
