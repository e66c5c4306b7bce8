"""The lab's cluster for other people's programs: a kubeconfig, printed or put into somebody's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from testbed.backends.istio.kubeconfig import Access, merged
from testbed.backends.istio.reaching import access_of
from testbed.errors import bad_input
from testbed.host.forward import start_forward
from testbed.lab.lab import Lab
from testbed.model.clusters import API_PORT, api_address
from testbed.waiting import NotYet, wait_until

LOCK_LIMIT = 5.0
"""Seconds that somebody else may write the file."""


def kubeconfig(lab: Lab) -> str:
    """A kubeconfig of the lab's cluster alone.  Raises BadInput when the lab has none."""
    return merged("", lab.id, _forwarded(lab), "kubeconfig")


def merge_kubeconfig(lab: Lab) -> Path:
    """Put the cluster into the file that kubectl writes to; returns which that is.

    The first file of ``KUBECONFIG``, else ``~/.kube/config``.  It is replaced as a whole, by rename, and only its
    owner can read it; other entries and the current context stay as they are.  kubectl's own lock is held.
    """
    named = [p for p in os.environ.get("KUBECONFIG", "").split(os.pathsep) if p]
    path = (Path(named[0]) if named else Path.home() / ".kube" / "config").resolve()
    access = _forwarded(lab)
    merge_into(path, lambda text: merged(text, lab.id, access, str(path)))
    return path


def merge_into(path: Path, change: Callable[[str], str]) -> None:
    """Replace the text of ``path`` by what ``change`` makes of it (of an empty one where there is none).

    A reader sees the old file or the new one.  Meanwhile there is ``FILE.lock``, by which kubectl (client-go's
    ``clientcmd``) keeps writers apart.  Raises BadInput, or :class:`WaitTimeout` while somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        try:
            text = path.read_text() if path.exists() else ""
        except (OSError, UnicodeDecodeError) as e:
            raise bad_input(str(path), f"can't be read: {e}", "name another file in KUBECONFIG") from None
        changed = change(text)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(changed)
        part.rename(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.with_name(f"{path.name}.lock")

    def take() -> None:
        try:
            os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            raise NotYet(f"{lock} is there") from None
        except OSError as e:
            raise bad_input(str(lock), f"can't be made: {e.strerror}", "name another file in KUBECONFIG") from None

    wait_until(
        f"nobody else writes {path}", take, limit=LOCK_LIMIT, next_step=f"if no kubectl is at work, delete {lock}"
    )
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _forwarded(lab: Lab) -> Access:
    """The API as this host reaches it: a loopback port, for which k3s's certificate holds too."""
    if not lab.has_cluster:
        raise bad_input(lab.file, "the lab has no cluster", "only labs with mesh.backend: istio have a kubeconfig")
    access = access_of(lab)
    port = start_forward(lab.directories, api_address(lab.inventory), API_PORT, private=lab.private)
    return replace(access, host="127.0.0.1", port=port)
