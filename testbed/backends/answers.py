"""What a node's files and a proxy's admin port say, read: pure, and without imports that a small machine notices.

Two programs read it: Testbed, and the one on the node that pushes (``testbed_xds.py``), to whom this file is known
as ``testbed_answers``.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STATS = (
    "/stats?usedonly&filter=(version_text%7Cupdate_(rejected%7Cfailure%7Cattempt)%7Cwarming_state%7Cwarming_clusters"
    "%7Ctotal_listeners_warming%7C_draining)$%7C^server.state$"
)
"""Where the admin port says what :class:`Answer` reads.  What was never used is 0, and most of what there is."""

HOSTS_BEGIN, HOSTS_END = "# testbed: services", "# testbed: end"
BLOCK = re.compile(f"{HOSTS_BEGIN}\n(.*?){HOSTS_END}\n", re.DOTALL)
"""Our lines in a hosts file."""

_SERVER_STATES = {"0": "LIVE", "1": "DRAINING", "2": "PRE_INITIALIZING", "3": "INITIALIZING"}


def body_of(answer: bytes) -> bytes:
    """The body of an HTTP/1.1 answer that ended with its connection; empty when there was none."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return body
    parts: list[bytes] = []
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        if not length:
            return b"".join(parts)
        parts.append(body[:length])
        body = body[length + 2 :]


def our_lines(hosts: str) -> str:
    """Our lines in a hosts file, empty when there are none."""
    found = BLOCK.search(hosts)
    return found[1] if found else ""


class Answer:
    """What a proxy's statistics say (the text of :data:`STATS`), by statistics prefix."""

    def __init__(self, text: str) -> None:
        self.versions: dict[str, str] = {}
        self.refused: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.warming: list[str] = []
        self.draining, self.server = 0, ""
        warming_listeners = 0
        for line in text.splitlines():
            name, _, value = line.rpartition(": ")
            prefix, _, last = name.rpartition(".")
            if last == "version_text":
                self.versions[prefix] = value.strip('"')
            elif last in ("update_rejected", "update_failure"):
                self.refused[prefix] = self.refused.get(prefix, 0) + int(value)
            elif last == "update_attempt":
                self.attempts[prefix] = int(value)
            elif last == "warming_state" and value != "0":
                self.warming.append("cluster " + prefix.partition(".")[2])
            elif last == "total_listeners_warming":
                warming_listeners = int(value)
            elif last in ("total_listeners_draining", "total_filter_chains_draining"):
                self.draining += int(value)
            elif name == "server.state":
                self.server = _SERVER_STATES.get(value, value)
        self.warming += [f"{warming_listeners} listener(s)"] if warming_listeners else []

    def prefixes(self, path: str, resource: str) -> list[str]:
        """The statistics prefixes under which a file's subscription counts."""
        name = resource.replace("://", "_").replace(":/", "_").replace(":", "_")
        kind = path.partition("/")[0]
        if kind in ("cds.json", "lds.json"):
            return ["cluster_manager.cds" if kind == "cds.json" else "listener_manager.lds"]
        if kind == "rds":
            return [p for p in self.attempts if p.startswith("http.") and p.endswith(".rds." + name)]
        return [("cluster." if kind == "eds" else "sds.") + name]

    def has(self, path: str, resource: str, version: str) -> bool:
        """Whether the proxy answers with this version of the file.  A secret need not be in use."""
        prefixes = self.prefixes(path, resource)
        unused = path.startswith("sds/") and not self.attempts.get(prefixes[0])
        return unused or any(self.versions.get(p) == version for p in prefixes)

    def refusals(self, path: str, resource: str, before: Mapping[str, int]) -> int:
        """How often the file was refused since ``before``, an earlier answer's ``refused``.

        Counters begin anew with the process: one that is lower than before counts from nothing.
        """
        now = {p: self.refused.get(p, 0) for p in self.prefixes(path, resource)}
        return sum(n - before.get(p, 0) if n >= before.get(p, 0) else n for p, n in now.items())


def reasons(log: str, refusals: Mapping[str, int]) -> dict[str, str]:
    """Path -> why it was refused: each refusal is one entry of the proxy's log, the last ones are these."""
    said = re.findall(r"Filesystem config update (?:rejected|failure): (.*(?:\n(?!\[).*)*)", log)
    # Envoy prints the whole resource before what is wrong with it.
    told = [re.sub(r"(?s).*(?=Proto constraint validation failed)|goo\.gle/debugstr", "", s) for s in said]
    tidied = [" ".join(text.split())[:600] for text in told]
    last = list(dict.fromkeys(tidied[-sum(refusals.values()) :])) or ["its log does not say why"]
    return {path: last[0] if len(last) == 1 else "one of: " + "; ".join(last) for path in refusals}
