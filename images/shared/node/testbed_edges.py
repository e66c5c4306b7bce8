"""One request along each edge that begins on this node; each from its workload's network namespace.

Asked by testbed_thaw.py: {"limit": seconds for each, "requests": [...]}, each with namespace, address, port, host
and path.  The answers are in the same order: [status, x-instance, seconds, error].  Nothing is sent twice.
"""

import ctypes
import socket
import threading
import time

CLONE_NEWNET = 0x40000000


def ask(wanted, limit):
    begun = time.monotonic()
    try:
        with socket.create_connection((wanted["address"], wanted["port"]), timeout=limit) as connection:
            head = f"GET {wanted['path']} HTTP/1.1\r\nHost: {wanted['host']}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError as e:
        return [0, "", round(time.monotonic() - begun, 3), str(e)]
    lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    status = lines[0].split(" ")[1:2]
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    took = round(time.monotonic() - begun, 3)
    if not status:
        return [0, "", took, "the connection was closed before the answer"]
    return [int(status[0]), fields.get("x-instance", ""), took, ""]


def ask_all(document):
    """All at once: what takes time is other machines' work as much as this one's."""
    requests = document["requests"]
    answers = [[0, "", 0.0, "not sent"]] * len(requests)

    def run(number, wanted):
        with open(f"/run/netns/{wanted['namespace']}") as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                return
        answers[number] = ask(wanted, document["limit"])

    threads = [threading.Thread(target=run, args=item) for item in enumerate(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
