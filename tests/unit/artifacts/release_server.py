"""A web server on loopback that serves release-shaped files, and misbehaves as told."""

import hashlib
import http.server
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field


def digest_of(body):
    """As registries name content."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@dataclass
class ReleaseServer:
    """``files`` by path.  The other fields are what it does wrong."""

    files: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    """(path as it was asked for, Range header)."""
    port: int = 0
    cut_after: int | None = None
    """Close the connection after so many bytes of a body, while ``cuts`` last."""
    cuts: int = 10**6
    ranges: bool = True
    answers: dict = field(default_factory=dict)
    """Path -> (status, headers) in place of the file."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def put_release(self, version, content, *, wrong_sum=False):
        """k3s's files, with the sums beside them."""
        base = f"/k3s/{version}"
        lines = []
        for name, body in content.items():
            self.files[f"{base}/{name}"] = body
            digest = hashlib.sha256(b"other" if wrong_sum else body).hexdigest()
            lines.append(f"{digest}  {name}\n")
        self.files[f"{base}/sha256sum-amd64.txt"] = "".join(lines).encode()

    def put_image(self, name, tag, layer):
        """An image as a registry serves it: manifest, configuration, one layer; the manifest's digest."""
        rootfs = {"type": "layers", "diff_ids": [digest_of(layer)]}
        config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs, "history": []}
        layers = [("application/vnd.oci.image.layer.v1.tar", layer, {})]
        return self.put_artifact(name, tag, "application/vnd.oci.image.config.v1+json", config, layers)

    def put_artifact(self, name, tag, config_type, config, layers):
        """A manifest, at its tag unless that is empty and at its digest, and its blobs; the digest.  ``layers``:
        (media type, content, annotations)."""

        def blob(media_type, body):
            self.files[f"/v2/{name}/blobs/{digest_of(body)}"] = body
            return {"mediaType": media_type, "digest": digest_of(body), "size": len(body)}

        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob(config_type, json.dumps(config).encode()),
            "layers": [blob(kind, body) | ({"annotations": a} if a else {}) for kind, body, a in layers],
        }
        return self.put_manifest(name, tag, manifest)

    def put_manifest(self, name, tag, manifest):
        """A manifest or an index at its digest, and at its tag unless that is empty; the digest."""
        body = json.dumps(manifest).encode()
        digest = digest_of(body)
        self.files["/v2/"] = b"{}"
        for place in filter(None, (tag, digest)):
            self.files[f"/v2/{name}/manifests/{place}"] = body
        return digest

    def respond(self, handler):
        path = re.sub(r"^http://[^/]+", "", handler.path)  # a proxy is asked for whole addresses
        asked = handler.headers.get("Range", "")
        self.asked.append((handler.path, asked))
        path = path.replace("%2B", "+")
        if path in self.answers:
            status, headers = self.answers[path]
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = self.files.get(path)
        if body is None:
            handler.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if start >= len(body) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if "/manifests/" in path:
            handler.send_header("Content-Type", json.loads(body)["mediaType"])
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        rest = body[start:]
        handler.send_header("Content-Length", str(len(rest)))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if self.cut_after is not None and self.cuts > 0 and len(rest) > self.cut_after:
            self.cuts -= 1
            handler.wfile.write(rest[: self.cut_after])
            handler.close_connection = True
            return
        handler.wfile.write(rest)


@contextmanager
def serving():
    """A server for the length of a block."""
    release = ReleaseServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            release.respond(self)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    release.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield release
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
