"""Give the proxies of this node their files, and read from the proxies what they made of them.

    testbed_xds.py apply      JSON documents on stdin, one a line; answers each, in a line, when all is in force,
                              or says what is not; {"do": "look", ...} only looks (see testbed_look; "set_up":
                              true, and makes ready for that).  With
                              "set_up", a text for workloads.json, the node takes that up first (testbed_node)
    testbed_xds.py rollback   the same without contents; back to what the last apply found

Envoy's filesystem subscriptions have traps that give this file its shape:
- it reads a file when one is renamed to its name, so files are made elsewhere and moved in;
- a cluster, route or secret that names a file which is not there is refused: files first, users after;
- a file is accepted or refused in silence: only statistics (``version_text``, ``update_rejected``) and log tell.
  A refused list of listeners or clusters is still taken in part, hence the way back for what was refused;
- routes that name a cluster which is not warm yet answer 503: clusters go first, and go away last.
"""

import ctypes
import fcntl
import json
import os
import re
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from testbed_answers import BLOCK, HOSTS_BEGIN, HOSTS_END, STATS, Answer, body_of, reasons

STATE = ".state"  # inside a proxy's directory; nothing watches it
CLONE_NEWNET = 0x40000000
PAUSE = threading.Event()  # never set: waiting on it is a pause


class Refused(Exception):
    """Envoy refused a file."""

    def __init__(self, reasons):
        super().__init__(str(reasons))
        self.reasons = reasons


class Late(Exception):
    """The limit passed before the proxy had taken everything up."""


class NotAnswering(Exception):
    """The proxy's admin port does not answer."""


# The admin port -----------------------------------------------------------------------------------------


def enter(namespace):
    """Put the calling thread into a network namespace (Python 3.11 has no os.setns)."""
    with open(f"/run/netns/{namespace}") as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"can't enter namespace {namespace}")


def get(port, path, limit=10.0, method="GET"):
    """The body of a request to the admin port, from a thread that is in the proxy's namespace."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=limit) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError as e:
        raise NotAnswering(str(e)) from e
    return body_of(answer)


def ask(port):
    """What the proxy's statistics say."""
    return Answer(get(port, STATS).decode())


# Files --------------------------------------------------------------------------------------------------


def read(path, otherwise=None):
    """A file's text, or ``otherwise`` when there is none."""
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return otherwise


def read_json(path):
    """A JSON file's content; None when it is missing or cut short by a power loss."""
    try:
        return json.loads(read(path) or "null")
    except ValueError:
        return None


class Proxy:
    """One workload's proxy: its directory, its admin port, and what it was last given."""

    def __init__(self, name, wanted, limit):
        self.name, self.wanted = name, wanted
        self.directory, self.port = wanted["directory"], wanted.get("admin", 15000)
        self.deadline, self.begun = time.monotonic() + limit, time.monotonic()
        self.manifest = read_json(self.state("manifest.json")) or {"revision": "", "files": {}, "refused": {}}

    def path(self, name):
        return os.path.join(self.directory, name)

    def state(self, name):
        return os.path.join(self.directory, STATE, name)

    def write(self, name, content):
        """Move a file with this content into its place.  Secrets are the proxy's own and nobody else's."""
        secret, owner = name.startswith("sds/"), self.wanted.get("owner", 1337)
        folder = os.path.dirname(self.path(name))
        if not os.path.isdir(folder):
            os.makedirs(folder, exist_ok=True)
            if secret:
                os.chown(folder, owner, owner)
                os.chmod(folder, 0o700)
        made = self.state("new")
        private = secret or name.startswith(STATE)
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            os.fchmod(file.fileno(), 0o600 if private else 0o644)
            if secret:
                os.fchown(file.fileno(), owner, owner)
            file.write(content)
        os.rename(made, self.path(name))

    def remember(self, revision, files, refused):
        self.manifest = {"revision": revision, "files": files, "refused": refused}
        self.write(f"{STATE}/manifest.json", json.dumps(self.manifest))

    def forget(self, name):
        if os.path.exists(self.state(name)):
            os.unlink(self.state(name))

    # What the proxy says

    def settle(self, expected, before):
        """Wait until the proxy answers with every expected version and nothing warms; Refused, Late."""
        pause = 0.02
        while True:
            try:
                answer = ask(self.port)
                lag = [p for p, (version, name) in expected.items() if not answer.has(p, name, version)]
                refusals = {p: n for p in lag if (n := answer.refusals(p, expected[p][1], before)) > 0}
                if refusals:
                    raise Refused(reasons(self.log(), refusals))
                if not lag and not answer.warming and answer.server == "LIVE":
                    return answer
                seen = f"behind on {', '.join(lag)}" if lag else ", ".join(["warming", *answer.warming])
                seen = seen if answer.server == "LIVE" else f"{answer.server.lower()}; {seen}"
            except NotAnswering as e:
                seen = f"its admin port does not answer: {e}"
                if time.monotonic() >= self.deadline:
                    seen += self.last_words()
            self.pause(pause, seen)
            pause = min(pause * 1.5, 0.25)

    def pause(self, seconds, seen):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Late(seen)
        PAUSE.wait(min(seconds, left))

    def log(self):
        """The proxy's own log."""
        import subprocess  # rarely needed, slow to import

        return subprocess.run(self.wanted["log"], capture_output=True, text=True, check=False).stdout

    def last_words(self):
        """What a proxy that does not run said first when it was started last; empty when it said nothing bad."""
        start = self.log().rpartition("initializing epoch")[2]
        found = re.search(r"\[critical\](?:\[[^]]*\])* (.*)", start)
        return f"; its log says: {found[1][:400]}" if found else ""

    # Changing it

    def start(self):
        import subprocess

        done = subprocess.run(
            self.wanted["start"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise Late(f"it did not start: {done.stderr.strip()[-300:]}")

    def lay(self):
        """Put its first files in their places, for whoever starts it; :meth:`push` then waits for it."""
        files = self.wanted["files"]
        os.makedirs(self.state(""), mode=0o700, exist_ok=True)
        self.remember("", {p: ["", f["resource"]] for p, f in files.items()}, {})
        for path, file in files.items():
            self.write(path, file["content"])
        self.wanted["laid"] = True

    def push(self, revision, files, contents):
        """Give it ``files`` (path -> [version, resource]); ``contents`` holds at least those that changed."""
        if self.wanted.get("laid"):
            timing = self.wait(files, {})
            self.remember(revision, files, timing.pop("refused"))
            return {"written": sorted(files), **timing}
        old = self.manifest["files"]
        stale = [p for p, (version, _) in files.items() if old.get(p, [""])[0] != version]
        gone = [p for p in old if p not in files]
        try:
            before = ask(self.port).refused
        except NotAnswering:
            before = None
        if not stale and not gone and before is not None:
            timing = self.wait(files, before)
            self.remember(revision, files, timing.pop("refused"))
            return {"written": [], **timing}
        os.makedirs(self.state(""), mode=0o700, exist_ok=True)
        # A push that is cut short leaves these marked as unknown, so that the next one writes them again.
        self.remember(
            "",
            {p: (["", v[1]] if p in stale or p in gone else v) for p, v in {**old, **files}.items()},
            self.manifest["refused"],
        )
        if before is None or "bootstrap.json" in stale:
            for path in stale:
                self.write(path, contents[path])
            self.start()
            before, timing = {}, self.wait(files, {})
        else:
            timing = self.change(stale, files, contents, before)
        for path in gone:
            self.forget(os.path.join("..", path))
        self.remember(revision, files, timing.pop("refused"))
        return {"written": sorted(stale + gone), **timing}

    def change(self, stale, files, contents, before):
        """Change a running proxy: secrets, endpoints and clusters; then listeners and routes; then pruning."""
        first = sorted(p for p in stale if p.startswith(("sds/", "eds/")))
        for path in first:
            self.write(path, contents[path])
        kept = ""
        expected = {p: files[p] for p in first if p in self.manifest["files"] and p.startswith("sds/")}
        if "cds.json" in stale:
            version, content = files["cds.json"][0], contents["cds.json"]
            if kept := keep_old_clusters(content, read(self.path("cds.json"), "{}")):
                version += "+"
            self.write("cds.json", kept or content)
            expected["cds.json"] = [version, ""]
        if expected:
            self.settle(expected, before)
        for path in sorted((p for p in stale if p.startswith("rds/") or p == "lds.json"), key="lds.json".__eq__):
            self.write(path, contents[path])
        if kept:
            routes = {p: v for p, v in files.items() if p.startswith("rds/") or p == "lds.json"}
            self.settle(routes, before)
            self.write("cds.json", contents["cds.json"])
        return self.wait(files, before)

    def wait(self, files, before):
        """Until all of it is taken up, and the last old listener has let go of its connections."""
        answer = self.settle({p: v for p, v in files.items() if p != "bootstrap.json"}, before)
        taken = time.monotonic() - self.begun
        while answer.draining:
            self.pause(0.1, f"draining {answer.draining} old listeners")
            answer = ask(self.port)
        return {"taken": taken, "drained": time.monotonic() - self.begun, "refused": answer.refused}

    def apply(self):
        """Push what is wanted; when it is refused, give back what was there and say why."""
        files = {p: [f["version"], f["resource"]] for p, f in self.wanted["files"].items()}
        contents = {p: f["content"] for p, f in self.wanted["files"].items() if "content" in f}
        known = {p: v for p, v in self.manifest["files"].items() if v[0]}
        previous = {
            "revision": self.manifest["revision"],
            "files": known,
            # Secrets don't go back: what they replaced was about to run out.
            "contents": {p: read(self.path(p), "") for p in known if not p.startswith("sds/")},
        }
        self.forget("previous.json")
        try:
            done = self.push(self.wanted["revision"], files, contents)
        except Refused as refused:
            self.back(previous, contents)
            return {"refused": refused.reasons, "back": bool(known)}
        except Late as late:
            self.back(previous, contents)
            return {"late": str(late), "back": bool(known)}
        if done["written"]:
            self.write(f"{STATE}/previous.json", json.dumps(previous))
        return done

    def back(self, previous, contents=None):
        """Return to the files of before.  New secrets stay, in their new version."""
        if not previous["files"]:
            return
        files = dict(previous["files"])
        for path, value in self.manifest["files"].items():
            if path.startswith("sds/") and contents and path in contents:
                files[path] = [self.wanted["files"][path]["version"], value[1]]
            elif path.startswith("sds/"):
                files[path] = value
        self.deadline = time.monotonic() + 20
        try:
            before = ask(self.port)
        except NotAnswering:
            before = None
        # The proxy may hold part of a refused list under its old version: write all that differs on the disk.
        differs = [p for p, c in previous["contents"].items() if read(self.path(p)) != c]
        self.manifest["files"] = {
            p: (["", v[1]] if p in differs else v) for p, v in {**self.manifest["files"], **files}.items()
        }
        try:
            self.push(previous["revision"], files, {**(contents or {}), **previous["contents"]})
            while before and any(
                ask(self.port).attempts.get(prefix, 0) <= before.attempts.get(prefix, 0)
                for p in differs
                if p != "bootstrap.json"
                for prefix in before.prefixes(p, files[p][1])
            ):
                self.pause(0.05, "taking back the old files")
        except (Refused, Late, NotAnswering):
            return  # the refusal that brought us here is what the caller has to know

    def rollback(self):
        previous = read_json(self.state("previous.json"))
        if previous:
            self.back(previous)
            self.forget("previous.json")
        return {"back": bool(previous)}


def keep_old_clusters(new, old):
    """The new list of clusters plus those that only the old one has; empty when there are none."""
    document = json.loads(new)
    names = {r["name"] for r in document["resources"]}
    only_old = [r for r in json.loads(old).get("resources", []) if r["name"] not in names]
    if not only_old:
        return ""
    return json.dumps(
        {**document, "version_info": document["version_info"] + "+", "resources": document["resources"] + only_old}
    )


# The node ----------------------------------------------------------------------------------------------


def write_hosts(path, lines):
    """Put our block into a hosts file.  In place: a namespace may have this very file mounted over another."""
    old = read(path, "127.0.0.1 localhost\n")
    kept = BLOCK.sub("", old)
    new = f"{kept}{HOSTS_BEGIN}\n{lines}{HOSTS_END}\n"
    if new == old:
        return False
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        file.write(new.encode())
        file.truncate()
    return True


def each_proxy(document, work):
    """``work`` for every proxy at once, each from a thread in its namespace; name -> what it returned."""
    results = {}

    def run(name, wanted):
        try:
            enter(wanted["namespace"])
            results[name] = work(Proxy(name, wanted, document.get("limit", 60)))
        except Exception as e:  # noqa: BLE001 - one proxy's trouble must not hide the others' results
            results[name] = {"late": f"{type(e).__name__}: {e}", "back": False}

    threads = [threading.Thread(target=run, args=item) for item in document["workloads"].items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def store(directory, name, content):
    """Put a file of the node's own in its place, or take it away."""
    path, made = os.path.join(directory, name), os.path.join(directory, f".{name}")
    if content is not None:
        with open(made, "w") as file:
            file.write(content)
        os.rename(made, path)
    elif os.path.exists(path):
        os.unlink(path)


WORKLOADS = "/etc/testbed/workloads.json"


def set_up(document):
    """Let the node take up another list of workloads: what starts a new one's network starts its proxy with it."""
    import testbed_node  # not needed by who only pushes

    for name, wanted in document["workloads"].items():
        Proxy(name, wanted, 0).lay()
    with open(f"{WORKLOADS}.new", "w") as file:
        file.write(document["set_up"])
    os.rename(f"{WORKLOADS}.new", WORKLOADS)  # a machine may die at any time
    testbed_node.Node().converge()


def flush(document):
    """Have it on the disk: machines here are killed on purpose."""
    if document.get("durable", True):
        handle = os.open(document["resources"]["directory"], os.O_RDONLY)
        ctypes.CDLL(None).syncfs(handle)
        os.close(handle)


def apply(document):
    hosts = [path for path, lines in document.get("hosts", {}).items() if write_hosts(path, lines)]
    folder = document["resources"]["directory"]
    store(folder, "previous", None)
    if "set_up" in document:
        try:
            set_up(document)
        except Exception as e:  # noqa: BLE001 - whoever asked has to hear of it, whatever it is
            late = f"its workload was not set up: {type(e).__name__}: {e}"
            return {"workloads": {name: {"late": late} for name in document["workloads"]}, "hosts": hosts}
    results = each_proxy(document, Proxy.apply)
    if not any("late" in r or "refused" in r for r in results.values()):
        store(folder, "previous", read(os.path.join(folder, "applied"), ""))
        store(folder, "applied", document["resources"]["content"])
    flush(document)
    return {"workloads": results, "hosts": hosts}


def rollback(document):
    """Back to what the last apply found.  Names stay: one more that resolves does no harm."""
    results = each_proxy(document, Proxy.rollback)
    folder = document["resources"]["directory"]
    if os.path.exists(os.path.join(folder, "previous")):
        os.rename(os.path.join(folder, "previous"), os.path.join(folder, "applied"))
    flush(document)
    return {"workloads": results}


def main():
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command not in ("apply", "rollback"):
        sys.stderr.write(__doc__)
        return 2
    for line in sys.stdin:
        document = json.loads(line)
        if document.get("do") == "look":
            import testbed_look  # not needed by who only pushes

            print(json.dumps(testbed_look.look(document)), flush=True)
            if document.get("set_up"):  # whoever asked compiles meanwhile
                import testbed_node  # noqa: F401
            continue
        os.makedirs(document["resources"]["directory"], exist_ok=True)
        with open(os.path.join(document["resources"]["directory"], ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = (apply if command == "apply" else rollback)(document)
        print(json.dumps(done), flush=True)
    return 0


def run():
    try:
        sys.exit(main())
    except NotAnswering as e:
        sys.exit(f"the proxy's admin port does not answer: {e}")


if __name__ == "__main__":
    run()
