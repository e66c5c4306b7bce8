"""The sample services: who answers, how they misbehave when told to, what they remember."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed.waiting import NotYet, wait_until

PROGRAMS = Path(__file__).parents[3] / "images/shared/programs"


class Running:
    """A service in a process of its own."""

    def __init__(self, program, **environment):
        with socket.socket() as a, socket.socket() as b:
            a.bind(("127.0.0.1", 0))
            b.bind(("127.0.0.1", 0))
            self.port, self.control_port = a.getsockname()[1], b.getsockname()[1]
        variables = {"PORT": str(self.port), "CONTROL_PORT": str(self.control_port), "NODE": "app-1", **environment}
        argv = [sys.executable, "-S", "-E", "-B", str(PROGRAMS / f"{program}.py")]
        self.process = subprocess.Popen(argv, env={**os.environ, **variables})
        wait_until("the service", self.knock, limit=20, interval=0.05)

    def knock(self):
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError as e:
            raise NotYet(str(e)) from e

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def ask(self, path, headers=(), method="GET", body=None, port=None):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=10)
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        is_json = answer.getheader("content-type") == "application/json"
        return answer.status, dict(answer.getheaders()), json.loads(text) if is_json else text

    def control(self, path="/control", **settings):
        body = json.dumps(settings) if settings else None
        return self.ask(path, method="POST" if settings else "GET", body=body, port=self.control_port)[2]

    def end(self):
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def shop():
    ratings = Running("bookinfo", SERVICE="ratings")
    reviews = Running("bookinfo", SERVICE="reviews", VERSION="v3", RATINGS_ADDRESS=ratings.address)
    details = Running("bookinfo", SERVICE="details")
    page = Running(
        "bookinfo",
        SERVICE="productpage",
        VERSION="v2",
        TIMEOUT="1",
        DETAILS_ADDRESS=details.address,
        REVIEWS_ADDRESS=reviews.address,
    )
    services = {"ratings": ratings, "reviews": reviews, "details": details, "productpage": page}
    yield services
    for service in services.values():
        service.end()


@pytest.fixture(autouse=True)
def well_behaved(request):
    yield
    if "shop" in request.fixturenames:
        for service in request.getfixturevalue("shop").values():
            service.control(reset=True)


def page(shop, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return shop["productpage"].ask("/productpage", {"accept": "application/json", **headers})[2]


def test_every_part_says_who_answered(shop):
    said = page(shop)
    assert (said["service"], said["version"], said["node"]) == ("productpage", "v2", "app-1")
    assert said["details"]["service"] == "details"
    assert (said["reviews"]["version"], said["reviews"]["ratings"]["service"]) == ("v3", "ratings")
    assert said["reviews"]["reviews"][0]["rating"] == {"stars": 5, "color": "red"}


def test_headers_name_the_instance_and_echo_the_request_id(shop):
    _, headers, _ = shop["details"].ask("/details/0", {"x-request-id": "r-1"})
    assert (headers["x-service"], headers["x-version"], headers["x-instance"]) == ("details", "v1", "details-v1")
    assert headers["x-request-id"] == "r-1"


def test_request_ids_reach_the_deepest_service(shop):
    before = shop["ratings"].control("/count")["requests"]
    page(shop, x_testbed_request="deep-1")
    found = shop["ratings"].control(f"/requests?since={before}")
    assert [r["id"] for r in found["requests"]] == ["deep-1"]


def test_the_page_shows_stars_and_the_user(shop):
    status, headers, text = shop["productpage"].ask("/productpage", {"cookie": "a=b; session=bob"})
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert 'class="stars" style="color:red"' in text
    assert "bob" in text
    assert '<a href="/logout">' in text


def test_what_a_visitor_sends_is_escaped(shop):
    assert "<script>" not in shop["productpage"].ask("/productpage", {"cookie": "session=<script>"})[2]


def test_one_request_can_ask_for_a_failure_deep_inside(shop):
    said = page(shop, x_testbed_status="503", x_testbed_status_at="ratings")
    assert said["reviews"]["reviews"][0]["rating"] == {"error": "ratings answered 503"}
    assert "error" not in said["details"]
    assert shop["details"].ask("/details/0", {"x-testbed-status": "418"})[0] == 418


def test_a_page_is_shown_when_a_service_is_late(shop):
    shop["reviews"].control(delay=30)
    started = time.monotonic()
    said = page(shop)
    assert said["reviews"]["error"] == "reviews did not answer within 1 s"
    assert said["details"]["title"]
    assert time.monotonic() - started < 20


def test_settings_stay_until_reset(shop):
    shop["details"].control(status=500)
    assert [shop["details"].ask("/details/0")[0] for _ in range(3)] == [500] * 3
    shop["details"].control(reset=True)
    assert shop["details"].ask("/details/0")[0] == 200


def test_a_fail_rate_is_a_share(shop):
    shop["details"].control(fail_rate=0.5)
    failed = sum(shop["details"].ask("/details/0")[0] == 503 for _ in range(200))
    assert 60 < failed < 140  # outside of that once in 10^8 runs


def test_abort_resets_the_connection(shop):
    shop["details"].control(abort=True)
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        shop["details"].ask("/details/0")


def test_unknown_settings_are_refused(shop):
    assert "unknown setting 'speed'" in shop["details"].control(speed=3)["error"]
    assert "wants a number" in shop["details"].control(delay="long")["error"]


def test_login_sets_a_cookie_and_logout_clears_it():
    login, logout = Running("bookinfo", SERVICE="login"), Running("bookinfo", SERVICE="logout")
    try:
        status, headers, _ = login.ask("/login", method="POST", body="user=al%3Bice")
        assert (status, headers["location"]) == (303, "/productpage")
        assert headers["set-cookie"].startswith("session=alice;")
        assert "<form" in login.ask("/login")[2]
        assert "Max-Age=0" in logout.ask("/logout")[1]["set-cookie"]
    finally:
        login.end()
        logout.end()


def test_echo_answers_with_what_it_was_asked():
    echo = Running("echo", SERVICE="echo", VERSION="v7")
    try:
        said = echo.ask("/a?b=c", {"x-thing": "1"}, "POST", "body")[2]
        assert (said["method"], said["path"], said["headers"]["x-thing"], said["body"]) == (
            "POST",
            "/a?b=c",
            "1",
            "body",
        )
        assert said["version"] == "v7"
    finally:
        echo.end()


def test_connections_are_kept_and_bodies_may_be_chunked():
    echo = Running("echo", SERVICE="echo")
    try:
        connection = http.client.HTTPConnection("127.0.0.1", echo.port, timeout=5)
        for _ in range(3):
            connection.request("POST", "/", iter([b"ab", b"cd"]), encode_chunked=True)
            assert json.loads(connection.getresponse().read())["body"] == "abcd"
        connection.close()
        with socket.create_connection(("127.0.0.1", echo.port)) as raw:
            raw.sendall(b"nonsense\r\n\r\n")
            assert raw.recv(1000).startswith(b"HTTP/1.1 400 ")
    finally:
        echo.end()
