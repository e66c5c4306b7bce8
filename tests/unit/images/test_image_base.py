"""Base images of other people: checked, resumed, described."""

import hashlib
import http.server
import threading
from typing import ClassVar

import pytest

from testbed.errors import BadInput, LabError
from testbed.images import base_image
from testbed.model.inventory import Image

QCOW2 = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(16) + (5 << 30).to_bytes(8, "big") + bytes(480)


class Server(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list] = []
    body = QCOW2

    def do_GET(self):
        asked = self.headers.get("Range", "")
        self.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(self.body) - start))
        self.end_headers()
        self.wfile.write(self.body[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def url():
    Server.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/base.qcow2"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_local_qcow2_is_described_by_its_header(tmp_path):
    (tmp_path / "base.qcow2").write_bytes(QCOW2)
    image = base_image(Image(path="base.qcow2"), tmp_path / "cache", tmp_path)
    assert (image.format, image.size, image.direct) == ("qcow2", 5 << 30, False)


def test_a_file_that_is_no_disk_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match="neither a qcow2"):
        base_image(Image(path="notes.txt"), tmp_path, tmp_path)


def test_a_download_is_made_once_and_checked(tmp_path, url):
    wanted = Image(url=url, sha256=hashlib.sha256(QCOW2).hexdigest())
    first = base_image(wanted, tmp_path, tmp_path)
    assert base_image(wanted, tmp_path, tmp_path) == first
    assert first.disk.read_bytes() == QCOW2
    assert len(Server.asked) == 1


def test_another_content_is_refused_and_not_kept(tmp_path, url):
    with pytest.raises(LabError, match="SHA-256"):
        base_image(Image(url=url, sha256="0" * 64), tmp_path, tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.suffix != ".lock" and p.is_file()]


def test_an_interrupted_download_goes_on_where_it_ended(tmp_path, url):
    wanted = Image(url=url)
    (tmp_path / "bases").mkdir()
    key = base_image(wanted, tmp_path / "other", tmp_path).key
    (tmp_path / "bases" / f"{key}.part").write_bytes(QCOW2[:100])
    Server.asked.clear()
    assert base_image(wanted, tmp_path, tmp_path).disk.read_bytes() == QCOW2
    assert Server.asked == ["bytes=100-"]
