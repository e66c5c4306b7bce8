"""Sends different requests from inside a workload's namespace, each on a connection of its own.  JSON in, JSON out.

Standard library only.  A job: url, method, headers (a mapping; Host may be among them).  An answer: status (0 when
there was none), the answering program's words (a mapping, or null), error.  For tcp://host:port the client speaks
first, and the words are who answered.
"""

import http.client
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit


def exchange(url):
    said = b""
    try:
        with socket.create_connection((url.hostname, url.port), 10) as connection:
            connection.sendall(b"hello")
            while not said.endswith(b"hello"):
                data = connection.recv(1000)
                if not data:
                    break
                said += data
    except OSError as e:
        return {"status": 0, "said": None, "error": f"{type(e).__name__}: {e}"}
    answered = said.endswith(b"hello")
    return {"status": 0, "said": {"workload": said.decode().split()[0], "path": ""} if answered else None}


def ask(job):
    url = urlsplit(job["url"])
    if url.scheme == "tcp":
        return exchange(url)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    headers = {k.lower(): v for k, v in job["headers"].items()}
    connection = http.client.HTTPConnection(job.get("connect") or url.hostname, url.port or 80, timeout=10)
    try:
        connection.putrequest(job["method"], target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("host", headers.pop("host", url.netloc))
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        try:
            said = json.loads(body)
        except ValueError:
            said = None
        return {"status": answer.status, "said": said if isinstance(said, dict) else None}
    except (OSError, http.client.HTTPException) as e:
        return {"status": 0, "said": None, "error": f"{type(e).__name__}: {e}"}
    finally:
        connection.close()


with ThreadPoolExecutor(4) as pool:
    json.dump(list(pool.map(ask, json.load(sys.stdin))), sys.stdout)
