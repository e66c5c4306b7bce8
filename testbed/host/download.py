"""Bring a file from an address to this host: through proxies, resumed where an earlier try ended.

Proxies come from ``http_proxy``, ``https_proxy`` and ``no_proxy``, certificates from ``REQUESTS_CA_BUNDLE`` when
the host's proxy has one of its own: requests reads these variables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from testbed.errors import LabError

if TYPE_CHECKING:  # imported where something is downloaded: it is a tenth of the start of commands that don't
    import requests

_CHUNK = 1 << 20
_TIMEOUT = (20, 60)
"""Seconds until a connection stands, and that a server may stay silent."""

_RESUMES = 5
"""How often one call goes on after a transfer broke off, as long as each time brought something."""

OnBytes = Callable[[int, int], None]
"""Called with the bytes that are there and the whole (0: unknown)."""


class NotFound(LabError):
    """The server has no such file (404 or 410)."""


def _ignore(have: int, whole: int) -> None:
    pass


def read_small(url: str, limit: int = 1 << 20) -> str:
    """The text at ``url``; more than ``limit`` bytes are refused.  Raises :class:`LabError`."""
    with _asking(url, {}) as answer:
        body = bytearray()
        for chunk in answer.iter_content(_CHUNK):
            body += chunk
            if len(body) > limit:
                raise LabError(url, "download", f"more than {limit} bytes of text", "check the address")
    return body.decode(errors="replace")


def download(url: str, part: Path, on_bytes: OnBytes = _ignore) -> None:
    """Bring all of ``url`` into ``part``, going on after the bytes that it has.

    A server that can't continue sends the whole again.  Whether the content is the right one is for the caller
    to check.  Raises :class:`NotFound`, or :class:`LabError` with the cause; ``part`` then keeps what came.
    """
    for last in (False,) * (_RESUMES - 1) + (True,):
        have = _size(part)
        try:
            _transfer(url, part, have, on_bytes)
            return
        except _BrokenOff:
            now = _size(part)
            if last or now <= have:
                cause = f"the transfer broke off after {now} bytes"
                raise LabError(
                    url, "download", cause, "run the same command again: it goes on from there"
                ) from None


class _BrokenOff(Exception):
    """The connection ended before the body did."""


def _transfer(url: str, part: Path, have: int, on_bytes: OnBytes) -> None:
    from urllib3.exceptions import HTTPError

    # as it is, not packed: ranges and lengths are then those of the file
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with _asking(url, headers) as answer:
        if answer.status_code == 416:  # the part is as long as the file, or longer
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return None
            part.unlink()
            return _transfer(url, part, 0, on_bytes)
        resumed = answer.status_code == 206
        if resumed and not answer.headers.get("Content-Range", f"bytes {have}-").startswith(f"bytes {have}-"):
            part.unlink()
            raise LabError(url, "download", "the server sent another range than asked for", "run the command again")
        begin = have if resumed else 0
        length = answer.headers.get("Content-Length", "")
        whole = begin + int(length) if length.isdigit() else 0
        with part.open("ab" if resumed else "wb") as out:
            try:
                # not iter_content: it fills its chunks first, and what a broken transfer brought is lost
                while chunk := answer.raw.read1(_CHUNK, decode_content=False):
                    out.write(chunk)
                    on_bytes(out.tell(), whole)
            except HTTPError:  # also when less came than Content-Length said
                raise _BrokenOff from None
    return None


@contextmanager
def _asking(url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
    import requests

    try:
        with requests.get(url, headers=dict(headers), stream=True, timeout=_TIMEOUT) as answer:
            _check_status(url, answer)
            yield answer
    except requests.RequestException as e:
        raise LabError(url, "download", *_why_unreachable(e)) from None


def _check_status(url: str, answer: requests.Response) -> None:
    code = answer.status_code
    if code in (404, 410):
        raise NotFound(
            url, "download", f"the server has no such file ({code})", "check the version and the address"
        )
    if code == 429 or (code == 403 and _says_limit(answer)):
        wait = _until(answer)
        cause = f"the server limits how often it is asked ({code}{wait})"
        raise LabError(url, "download", cause, "wait, or take it from a mirror (TESTBED_MIRROR)")
    if code == 407:
        raise LabError(url, "download", "the proxy wants a name and a password (407)", _PROXY)
    if code not in (200, 206, 416):
        raise LabError(url, "download", f"the server answered {code} {answer.reason}", "check the address")
    if urlsplit(url).scheme == "https" and urlsplit(answer.url).scheme != "https":
        raise LabError(url, "download", f"redirected to unencrypted {answer.url}", "check the address")


_PROXY = "check http_proxy, https_proxy and no_proxy"


def _says_limit(answer: requests.Response) -> bool:
    # GitHub answers 403 with these (docs: rate limits for the REST API)
    return answer.headers.get("X-RateLimit-Remaining") == "0" or "Retry-After" in answer.headers


def _until(answer: requests.Response) -> str:
    after = answer.headers.get("Retry-After", "")
    if after.isdigit():
        return f", for {after} s"
    reset = answer.headers.get("X-RateLimit-Reset", "")
    return time.strftime(", until %H:%M UTC", time.gmtime(int(reset))) if reset.isdigit() else ""


def _why_unreachable(error: requests.RequestException) -> tuple[str, str]:
    from requests.exceptions import ConnectionError, ProxyError, SSLError, Timeout

    if isinstance(error, ProxyError):
        return "the proxy can't be reached or refuses", _PROXY
    if isinstance(error, SSLError):
        cause = "the server's certificate is not trusted"
        return cause, "with a proxy that looks into TLS, name its CA in REQUESTS_CA_BUNDLE"
    if isinstance(error, Timeout):
        return "the server does not answer", "check the network, or use a mirror (TESTBED_MIRROR)"
    if isinstance(error, ConnectionError):
        return "the server can't be reached", "check the network, or use a mirror (TESTBED_MIRROR)"
    return str(error), "check the address"


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
