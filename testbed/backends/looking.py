"""Ask a node what its proxies were given and what they answer, in one command and without a Python there.

On an emulated machine a Python with what it imports is most of such a question's price, and six nodes are asked
before anything is done.  So a shell prints files and statistics as they are, and they are read here.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from testbed.backends.answers import STATS, Answer, body_of, our_lines, reasons
from testbed.backends.guest import Guest
from testbed.backends.push import NodeReport, ProxyReport
from testbed.errors import LabError
from testbed.model.topology import MeshWorkload

ReadLog = Callable[[str], str]
"""A workload's name -> what its proxy has logged."""

# Texts end with a NUL, which none of them holds.  A proxy that stands still answers nobody and is not asked.  Only
# the chain leaves the node, never the key beside it.
_SHELL = f"""
file() {{ local text=; [ -e "$1" ] && IFS= read -rd '' text <"$1"; printf '%s\\0' "$text"; }}
standing=
stands() {{ file "$1"; [ ! -e "$1" ] || standing=1; }}
chains() {{
  local name text
  for name in "$1"/sds/*.json; do
    text=; IFS= read -rd '' text <"$name"
    case $text in *'"certificate_chain"'*)
      text=${{text#*'"certificate_chain"'}}; printf '%s\\0%s\\0' "${{name##*/}}" "${{text%%\\}}*}}" ;;
    esac
  done 2>/dev/null
  printf '\\0'
}}
proxy() {{
  file "$1/.state/manifest.json"; chains "$1"
  [ -e "/run/netns/$2" ] && printf there; printf '\\0'
  [ -n "$standing" ] || timeout 10 nsenter "--net=/run/netns/$2" bash -c '
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit
    printf "GET %s HTTP/1.1\\r\\nHost: admin\\r\\nConnection: close\\r\\n\\r\\n" "$2" >&3
    cat <&3' - "$3" {shlex.quote(STATS)} 2>/dev/null
  printf '\\0'
}}
"""


EXCHANGE = 'exec 3<>"/dev/tcp/127.0.0.1/$1" || exit; printf %s "$2" >&3; cat <&3'
"""A program of bash: sends its second argument to the port of the loopback that is its first, prints the answer."""


def request_of(path: str, body: str | None = None) -> str:
    """A GET, or a POST of ``body``, as it goes over the wire."""
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len((body or '').encode())}\r\n\r\n{body or ''}"


def exchange(guest: Guest, workload: str, port: int, path: str, body: str | None = None) -> list[str]:
    """The command that sends a GET, or a POST of ``body``, to a port on the loopback of a workload's namespace.

    It prints the answer as it came, head and all; :func:`~testbed.backends.answers.body_of` reads it.
    """
    inside = ["nsenter", f"--net=/run/netns/{guest.namespace_of(workload)}", "timeout", "20"]
    return [*inside, "bash", "-c", EXCHANGE, "-", str(port), request_of(path, body)]


def question(guest: Guest, workloads: Sequence[MeshWorkload], hosts: Sequence[str], directory: str) -> list[str]:
    """The command for a node; it tells the workloads, the ``hosts`` files and the resources in ``directory``."""
    lines = [shlex.join(["file", str(PurePosixPath(directory) / "applied")])]
    lines += [shlex.join(["file", path]) for path in hosts]
    lines.append(shlex.join(["stands", guest.standing]))
    for workload in workloads:
        where = (guest.layout.directory(workload), guest.namespace_of(workload.name), str(guest.admin_port))
        lines.append(shlex.join(["proxy", *where]))
    return ["bash", "-c", _SHELL + "\n".join(lines)]


def question_for_program(
    guest: Guest, workloads: Sequence[MeshWorkload], hosts: Sequence[str], directory: str
) -> dict[str, Any]:
    """The same question for a program on the node that is there already: the body of what it is asked."""
    proxies = [[guest.layout.directory(w), guest.namespace_of(w.name), guest.admin_port] for w in workloads]
    return {
        "files": [str(PurePosixPath(directory) / "applied"), *hosts],
        "standing": guest.standing,
        "proxies": proxies,
        "path": STATS,
    }


def read(
    said: bytes,
    workloads: Sequence[MeshWorkload],
    hosts: Sequence[str],
    log: ReadLog,
    *,
    all_there: bool = True,
) -> NodeReport:
    """What :func:`question`'s command printed.  Raises LabError when it is cut short.

    A workload that has no namespace is a LabError, too, unless (not ``all_there``) it may yet have to be set up.
    """
    texts = iter(said.split(b"\0"))
    try:
        resources = next(texts).decode()
        files = {path: our_lines(next(texts).decode(errors="replace")) for path in hosts}
        standing = bool(next(texts))
        found = {w.name: _Seen.take(w.name, texts, all_there=all_there) for w in workloads}
    except StopIteration:
        raise LabError(workloads[0].node, "read its state", "the answer is cut short") from None
    proxies = {name: seen.report(partial(log, name)) for name, seen in found.items()}
    return NodeReport(proxies, resources, files, standing)


@dataclass(frozen=True)
class _Seen:
    """What a node printed of one proxy."""

    manifest: Mapping[str, Any]
    chains: Mapping[str, str]
    answer: Answer | None

    @classmethod
    def take(cls, name: str, texts: Iterator[bytes], *, all_there: bool) -> _Seen:
        try:
            manifest = json.loads(next(texts) or b"null")
        except ValueError:  # cut short by a power loss
            manifest = None
        chains = {}
        while file := next(texts).decode():
            chains[f"sds/{file}"] = _inline(next(texts))
        if next(texts) != b"there" and all_there:
            advice = "see that the workload's namespace is there"
            raise LabError(name, "read the proxy's state", "there is no such namespace", advice)
        answer = next(texts)
        statistics = Answer(body_of(answer).decode()) if answer else None
        return cls(manifest or {"revision": "", "files": {}, "refused": {}}, chains, statistics)

    def report(self, log: Callable[[], str]) -> ProxyReport:
        files: Mapping[str, Sequence[str]] = self.manifest["files"]
        given = ProxyReport(
            revision=self.manifest["revision"],
            versions={path: version for path, (version, _) in files.items()},
            certificates={path: chain for path, chain in self.chains.items() if path in files},
        )
        if self.answer is None:
            return given
        subscribed = {p: v for p, v in files.items() if p != "bootstrap.json"}
        before = self.manifest["refused"]
        refused = {p: n for p, (_, name) in subscribed.items() if (n := self.answer.refusals(p, name, before))}
        return ProxyReport(
            given.revision,
            given.versions,
            given.certificates,
            server=self.answer.server,
            behind=tuple(p for p, (version, name) in subscribed.items() if not self.answer.has(p, name, version)),
            warming=tuple(self.answer.warming),
            draining=self.answer.draining,
            rejected=reasons(log(), refused) if refused else {},
        )


def _inline(rest: bytes) -> str:
    """The text in ``: {"inline_string": text``, empty when there is none."""
    try:
        return str(json.loads(rest.lstrip(b": ") + b"}").get("inline_string", ""))
    except ValueError:
        return ""
