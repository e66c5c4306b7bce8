"""What this node's proxies were given and what they answer, told as the shell of Testbed's own question tells it.

Asked by testbed_thaw.py and testbed_xds.py: {"files": paths, "standing": the file that is there while services do
not run, "proxies": [[directory, network namespace, admin port], ...], "path": of the statistics}.  No process is
started for it, which is most of what the question costs an emulated machine.
"""

import ctypes
import glob
import os
import socket
import threading

CLONE_NEWNET = 0x40000000
MARK = '"certificate_chain"'


def text_of(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def chains(directory):
    """File name, then what follows the mark in it; the key beside it stays here."""
    for path in sorted(glob.glob(f"{directory}/sds/*.json")):
        _, found, rest = text_of(path).partition(MARK)
        if found:
            yield os.path.basename(path)
            yield rest.partition("}")[0]


def statistics(namespace, port, path):
    """The proxy's answer, head and all; empty when there is none."""
    try:
        with open(f"/run/netns/{namespace}") as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                return ""
        with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode("utf-8", "replace")
    except OSError:
        return ""


def look(document):
    answers = {}

    def ask(namespace, port):
        answers[namespace] = statistics(namespace, port, document["path"])

    standing = text_of(document["standing"])
    # One that stands still answers nobody; and where workloads are set up next, all are told something after that.
    asked = document["proxies"] if not standing and not document.get("set_up") else []
    threads = [threading.Thread(target=ask, args=proxy[1:]) for proxy in asked]
    for thread in threads:
        thread.start()
    texts = [text_of(path) for path in document["files"]] + [standing]
    for thread in threads:
        thread.join()
    for directory, namespace, _ in document["proxies"]:
        there = "there" if os.path.exists(f"/run/netns/{namespace}") else ""
        texts += [
            text_of(f"{directory}/.state/manifest.json"),
            *chains(directory),
            "",
            there,
            answers.get(namespace, ""),
        ]
    return "".join(f"{text}\0" for text in texts)
