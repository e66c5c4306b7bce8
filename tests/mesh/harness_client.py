"""Sends the requests of a test from inside a workload's namespace.  JSON in, JSON out.  Standard library only."""

import base64
import http.client
import json
import os
import socket
import ssl
import sys
import threading
import time
from urllib.parse import urlsplit


def connect(job, url):
    port = url.port or (443 if url.scheme == "https" else 80)
    host = job.get("connect") or url.hostname
    if url.scheme == "https":
        context = ssl._create_unverified_context()
        if job.get("roots"):
            context = ssl.create_default_context(cadata=job["roots"])
        if job.get("certificate"):
            context.load_cert_chain(job["certificate"])
        if job.get("alpn"):
            context.set_alpn_protocols(job["alpn"])
        if job.get("tls"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion[job["tls"]]
        if job.get("ciphers"):
            context.set_ciphers(job["ciphers"])
        made = http.client.HTTPSConnection(url.hostname, port, timeout=job["timeout"], context=context)
    else:
        made = http.client.HTTPConnection(url.hostname, port, timeout=job["timeout"])
    if host != url.hostname:
        made._create_connection = lambda _, *a, **k: socket.create_connection((host, port), *a, **k)
    return made


def send(job, url, connection):
    begun, at = time.monotonic(), time.time()
    try:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.putrequest(job["method"], target, skip_host=True, skip_accept_encoding=True)
        names = {k.lower() for k, _ in job["headers"]}
        if "host" not in names:
            connection.putheader("host", url.netloc)
        if job["body"] and not names & {"content-length", "transfer-encoding"}:
            connection.putheader("content-length", str(len(job["body"])))
        for key, value in job["headers"]:
            connection.putheader(key, value)
        connection.endheaders(job["body"].encode() or None)
        answer = connection.getresponse()
        body = answer.read()
        return {
            "status": answer.status,
            "headers": [[k.lower(), v] for k, v in answer.getheaders()],
            "body": base64.b64encode(body).decode(),
            "seconds": time.monotonic() - begun,
            "at": at,
        }
    except (OSError, http.client.HTTPException) as e:
        connection.close()
        return {"error": f"{type(e).__name__}: {e}", "seconds": time.monotonic() - begun, "at": at}


def run(job, count, results):
    url = urlsplit(job["url"])
    connection = connect(job, url)
    for number in range(count):
        if number:
            time.sleep(job.get("pause", 0))
        while number and job.get("gate") and not os.path.exists(job["gate"]):  # noqa: PTH110
            time.sleep(0.005)
        if not job["reuse"]:
            connection.close()
        results.append(send(job, url, connection))
    connection.close()


job = json.load(sys.stdin)
lanes = min(job["concurrency"], job["n"])
lists = [[] for _ in range(lanes)]
threads = [
    threading.Thread(target=run, args=(job, job["n"] // lanes + (i < job["n"] % lanes), results))
    for i, results in enumerate(lists)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
json.dump([r for results in lists for r in results], sys.stdout)
