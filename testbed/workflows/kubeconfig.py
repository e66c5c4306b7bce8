"""The lab's cluster for other people's programs: a kubeconfig, printed or put into somebody's own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from testbed.backends.istio.kubeconfig import Access, merged
from testbed.errors import bad_input
from testbed.host.forward import start_forward
from testbed.lab.lab import Lab
from testbed.model.clusters import API_PORT, api_address
from testbed.workflows.kubernetes import access_of


def kubeconfig(lab: Lab) -> str:
    """A kubeconfig of the lab's cluster alone.  Raises BadInput when the lab has none."""
    return merged("", lab.id, _forwarded(lab), "kubeconfig")


def merge_kubeconfig(lab: Lab) -> Path:
    """Put the cluster into the file that kubectl writes to; returns which that is.

    The first file of ``KUBECONFIG``, else ``~/.kube/config``.  It is replaced as a whole, by rename, and only its
    owner can read it; other entries and the current context stay as they are.
    """
    named = [p for p in os.environ.get("KUBECONFIG", "").split(os.pathsep) if p]
    path = (Path(named[0]) if named else Path.home() / ".kube" / "config").resolve()
    text = path.read_text() if path.exists() else ""
    write_merged(path, merged(text, lab.id, _forwarded(lab), str(path)))
    return path


def write_merged(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.rename(path)


def _forwarded(lab: Lab) -> Access:
    """The API as this host reaches it: a loopback port, for which k3s's certificate holds too."""
    if not lab.has_cluster:
        raise bad_input(lab.file, "the lab has no cluster", "only labs with mesh.backend: istio have a kubeconfig")
    access = access_of(lab)
    port = start_forward(lab.directories, api_address(lab.inventory), API_PORT, private=lab.private)
    return replace(access, host="127.0.0.1", port=port)
