"""Downloads: resumed, through proxies, and a cause for everything that goes wrong."""

import os

import pytest
from release_server import serving

from testbed.errors import LabError
from testbed.host.download import NotFound, download, read_small

BODY = os.urandom(3_000_000)


@pytest.fixture
def part(tmp_path):
    return tmp_path / "file.part"


def test_a_file_arrives_whole_and_its_bytes_are_counted(server, part):
    server.files["/k3s"] = BODY
    seen = []
    download(f"{server.url}/k3s", part, lambda have, whole: seen.append((have, whole)))
    assert part.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [have for have, _ in seen] == sorted(have for have, _ in seen)


def test_a_transfer_that_breaks_off_goes_on_where_it_ended(server, part):
    server.files["/k3s"], server.cut_after, server.cuts = BODY, 1_000_000, 2
    download(f"{server.url}/k3s", part)
    assert part.read_bytes() == BODY
    assert [r for _, r in server.asked] == ["", "bytes=1000000-", "bytes=2000000-"]


def test_a_transfer_that_keeps_breaking_off_ends_and_keeps_what_came(server, part):
    server.files["/k3s"], server.cut_after = BODY, 100_000
    with pytest.raises(LabError, match="broke off after 500000 bytes") as error:
        download(f"{server.url}/k3s", part)
    assert "goes on from there" in error.value.next_step
    assert part.read_bytes() == BODY[:500_000]


def test_a_server_without_ranges_sends_it_all_again(server, part):
    server.files["/k3s"], server.ranges = BODY, False
    part.write_bytes(b"x" * 1000)
    download(f"{server.url}/k3s", part)
    assert part.read_bytes() == BODY


def test_a_complete_part_is_not_sent_again(server, part):
    server.files["/k3s"] = BODY
    part.write_bytes(BODY)
    download(f"{server.url}/k3s", part)
    assert part.read_bytes() == BODY
    assert len(server.asked) == 1


def test_a_part_longer_than_the_file_is_dropped(server, part):
    server.files["/k3s"] = BODY
    part.write_bytes(BODY + b"more")
    download(f"{server.url}/k3s", part)
    assert part.read_bytes() == BODY


def test_redirects_are_followed(server, part):
    server.files["/there"] = BODY
    server.answers["/k3s"] = (302, {"Location": f"{server.url}/there"})
    download(f"{server.url}/k3s", part)
    assert part.read_bytes() == BODY


@pytest.mark.parametrize(
    ("status", "headers", "says", "advice"),
    [
        (404, {}, r"no such file \(404\)", "version"),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1700000000"}, "403, until 22:13 UTC", "mirror"),
        (429, {"Retry-After": "90"}, "429, for 90 s", "mirror"),
        (403, {}, "answered 403 Forbidden", "address"),
        (407, {}, "the proxy wants a name", "http_proxy"),
        (503, {}, "answered 503", "address"),
    ],
)
def test_a_refusal_says_why(server, part, status, headers, says, advice):
    server.answers["/k3s"] = (status, headers)
    with pytest.raises(LabError, match=says) as error:
        download(f"{server.url}/k3s", part)
    assert isinstance(error.value, NotFound) == (status == 404)
    assert advice in error.value.next_step
    assert not part.exists()


def test_a_server_that_is_not_there_is_named(part):
    with serving() as gone:
        url = f"{gone.url}/k3s"
    with pytest.raises(LabError, match="can't be reached") as error:
        download(url, part)
    assert error.value.subject == url


def test_a_proxy_is_asked_for_the_whole_address(server, part, monkeypatch):
    server.files["/k3s"] = BODY
    monkeypatch.setenv("http_proxy", server.url)
    download("http://releases.invalid/k3s", part)
    assert part.read_bytes() == BODY
    assert server.asked == [("http://releases.invalid/k3s", "")]


def test_no_proxy_is_respected(server, part, monkeypatch):
    server.files["/k3s"] = BODY
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    download(f"{server.url}/k3s", part)
    assert part.read_bytes() == BODY


def test_a_proxy_that_is_not_there_is_blamed(part, monkeypatch):
    with serving() as gone:
        monkeypatch.setenv("http_proxy", gone.url)
    with pytest.raises(LabError, match="the proxy can't be reached") as error:
        download("http://releases.invalid/k3s", part)
    assert "no_proxy" in error.value.next_step


def test_sums_that_are_no_sums_are_not_read_to_their_end(server):
    server.files["/sums"] = BODY
    with pytest.raises(LabError, match="more than 1000 bytes"):
        read_small(f"{server.url}/sums", limit=1000)
