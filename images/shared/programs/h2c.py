"""HTTP/2 without TLS (RFC 9113 3.3, prior knowledge) for the sample services, and gRPC on top of it.

Loaded when the first such connection comes: it needs python3-h2, which takes a while to import when emulated.

A gRPC request is a POST whose body is one length-prefixed message; the service's answer goes back as one, with its
status in trailers.  A status that is no 200 becomes a grpc-status and no message, by the table for HTTP answers of
https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md, but 504 is DEADLINE_EXCEEDED.
"""

import asyncio
import sys

sys.path.append("/usr/lib/python3/dist-packages")  # services start without looking for packages

import h2.config
import h2.connection
import h2.events
import h2.exceptions

PREFACE_REST = b"SM\r\n\r\n"  # what follows the part of the preface that looks like a request's head
STATUSES = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 4}
UNKNOWN = 2


class Connection:
    """One connection; every request is answered in a task of its own, in whatever order answers come."""

    def __init__(self, handler, reader, writer, request, abort):
        self.handler, self.reader, self.writer = handler, reader, writer
        self.request, self.abort = request, abort
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="latin-1")
        )
        self.bodies, self.heads, self.tasks = {}, {}, set()
        self.window = asyncio.Event()

    async def serve(self):
        """Until the peer goes away."""
        self.h2.initiate_connection()
        self.h2.receive_data(b"PRI * HTTP/2.0\r\n\r\n" + await self.reader.readexactly(len(PREFACE_REST)))
        self.flush()
        try:
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self.take(event)
                self.flush()
        except h2.exceptions.ProtocolError:
            self.flush()
        finally:
            for task in self.tasks:
                task.cancel()

    def flush(self):
        self.writer.write(self.h2.data_to_send())

    def take(self, event):
        stream = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.RequestReceived):
            self.heads[stream], self.bodies[stream] = event.headers, b""
        elif isinstance(event, h2.events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
            if stream in self.bodies:
                self.bodies[stream] += event.data
        elif isinstance(event, h2.events.WindowUpdated):
            self.window.set()
        elif isinstance(event, h2.events.StreamEnded) and stream in self.heads:
            task = asyncio.ensure_future(self.answer(stream))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def answer(self, stream):
        headers = {}
        for name, value in self.heads.pop(stream):
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        grpc = headers.get("content-type", "").startswith("application/grpc")
        body = self.bodies.pop(stream)
        headers["host"] = headers.get(":authority", "")
        fields = {k: v for k, v in headers.items() if not k.startswith(":")}
        request = self.request(headers[":method"], headers[":path"], "HTTP/2", fields, body[5:] if grpc else body)
        try:
            response = await self.handler(request)
            await (self.send_grpc if grpc else self.send)(stream, response)
        except self.abort:
            self.h2.reset_stream(stream, error_code=2)
        except h2.exceptions.ProtocolError:
            return  # the caller has given this stream up
        self.flush()

    async def send(self, stream, response):
        self.h2.send_headers(stream, [(":status", str(response.status)), *_fields(response.headers)])
        await self.send_body(stream, response.body)
        self.h2.end_stream(stream)

    async def send_grpc(self, stream, response):
        fields = [(k, v) for k, v in _fields(response.headers) if k not in ("content-type", "content-length")]
        head = [(":status", "200"), ("content-type", "application/grpc"), *fields]
        if response.status != 200:
            status = str(STATUSES.get(response.status, UNKNOWN))
            told = [("grpc-status", status), ("grpc-message", f"answered {response.status}")]
            self.h2.send_headers(stream, [*head, *told], end_stream=True)
            return
        self.h2.send_headers(stream, head)
        await self.send_body(stream, b"\0" + len(response.body).to_bytes(4, "big") + response.body)
        self.h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)

    async def send_body(self, stream, body):
        while body:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room <= 0:
                self.flush()
                self.window.clear()
                await self.window.wait()
                continue
            self.h2.send_data(stream, body[:room])
            body = body[room:]


def _fields(headers):
    return [(name.lower(), str(value)) for name, value in headers]
