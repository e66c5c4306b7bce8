"""What `benchmarks/soak.py` finds wrong with a lab that was restored."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from testbed.errors import WaitTimeout
from testbed.host.directories import testbed_home as home
from testbed.workflows.loading import load_lab

sys.path.append(str(home() / "benchmarks"))
from soak import LOOK, Certificate, Client, Footprint, Guest, way_in, wrong

GUEST = Guest("identity", "random", 0.0, 90, 200.0, False)
NOW = datetime.now(UTC)
CERTIFICATE = Certificate(("spiffe://a",), "1", NOW - timedelta(days=1), NOW + timedelta(days=1))
SAVED = ({"left": GUEST}, {"a": CERTIFICATE, "b": replace(CERTIFICATE, serial="2")})


@pytest.mark.parametrize(
    ("guest", "certificate", "said"),
    [
        ({}, {}, ""),
        ({"identity": "other"}, {}, "identity"),
        ({"random": "drawn"}, {}, "repeats a random number"),
        ({"off": -2.5}, {}, "is off by -2.5 s"),
        ({"left": True}, {}, "written after the save"),
        ({}, {"identities": ("spiffe://b",)}, "is for"),
        ({}, {"ends": NOW - timedelta(minutes=1)}, "is valid from"),
        ({}, {"begins": NOW + timedelta(days=1)}, "is valid from"),
        ({}, {"serial": "2"}, "the same certificate"),
    ],
)
def test_whatever_is_not_as_it_was_saved_is_wrong(guest, certificate, said):
    guests = {"left": replace(GUEST, **guest)}
    certificates = {"a": replace(CERTIFICATE, **certificate), "b": SAVED[1]["b"]}
    assert [said in trouble for trouble in wrong(guests, certificates, SAVED, {"drawn"})] == [True] * bool(said)


FOOTPRINT = Footprint(10, 100.0, (("libvirtd", 1),), 40, 60.0, 300.0, 9, 50, 180, 200.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": 11}, ["files: 10 became 11"]),
        ({"processes": (("libvirtd", 2),)}, ["processes: (('libvirtd', 1),) became (('libvirtd', 2),)"]),
        ({"cards": 10}, ["cards: 9 became 10"]),
        ({"mounts": 51}, ["mounts: 50 became 51"]),
        ({"disk": 161}, ["disk: 100 became 161"]),
        ({"daemons": 101}, ["daemons: 60 became 101"]),
        ({"machines": 461}, ["machines: 300 became 461"]),
        ({"descriptors": 71}, ["descriptors: 40 became 71"]),
        ({"guests": 281}, ["guests: 180 became 281"]),
        ({"available": 159.0}, ["a machine's available memory: 200 became 159 MiB"]),
        ({"disk": 159, "daemons": 99, "descriptors": 69, "available": 161.0}, []),
    ],
)
def test_whatever_has_grown_is_named(changes, said):
    assert list(FOOTPRINT.grown(replace(FOOTPRINT, **changes))) == said


def test_a_clock_is_right_when_it_shows_a_moment_at_which_it_can_have_been_read():
    said = "id\nkey\n--\nuuid\n{}\n90\n204800\n"
    for clock, off in ((100.0, 0.0), (100.9, 0.0), (98.5, -1.5), (103.0, 2.0)):
        guest = Guest.read(said.format(clock), 100.0, 101.0)
        assert (guest.off, guest.identity, guest.available) == (off, "id\nkey", 200.0)
    assert Guest.read(f"{said.format(100)}left\n", 100, 101).left


def test_what_a_node_is_asked_is_answered_here_as_well(tmp_path):
    argv = ["sh", "-c", LOOK, "sh", str(tmp_path / "mark")]
    first, second = (
        Guest.read(subprocess.run(argv, capture_output=True, text=True, check=False).stdout, 0, time.time() + 1)
        for _ in range(2)
    )
    assert first.random != second.random
    assert (first.off, first.left, second.left) == (0, False, True)
    assert first.available > 0 and first.processes > 1


def certs(*serials):
    chain = {"valid_from": "2026-11-29T19:55:35Z", "expiration_time": "2026-12-29T20:55:35Z"}
    names = [{"uri": "spiffe://lab/ns/default/sa/a"}]
    return json.dumps(
        {
            "certificates": [
                {"ca_cert": [], "cert_chain": [{**chain, "serial_number": s, "subject_alt_names": names}]}
                for s in serials
            ]
        }
    ).encode()


def test_a_proxys_certificate_is_read_from_what_envoy_tells_of_each_context():
    found = Certificate.read(certs("2c", "2c"))
    assert (found.identities, found.serial) == (("spiffe://lab/ns/default/sa/a",), "2c")
    assert found.ends - found.begins == timedelta(days=30, hours=1)
    for told in (certs(), certs("2c", "2d")):
        with pytest.raises(ValueError, match="certificates"):
            Certificate.read(told)


@contextmanager
def answering(status):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_client_has_to_be_answered_after_a_restore_and_tells_what_it_saw_in_between():
    status = [200]
    with answering(status) as url, Client(url, "lab") as client:
        client.require_answer(10)
        client.restored = False
        status[0] = 503
        with pytest.raises(WaitTimeout, match="the client's next 200"):
            client.require_answer(1)
        client.restored = True
    assert set(client.answers[True]) == {200}
    assert 503 in client.answers[False]


@pytest.mark.parametrize(("name", "path"), [("two-nodes", "/health"), ("bookinfo", "/login")])
def test_the_client_asks_for_what_a_lab_lets_in(name, path):
    assert way_in(load_lab(name))[0] == path
