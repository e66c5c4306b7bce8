"""The child process that is pyinfra: a request as JSON on standard input, the outcomes on standard output."""

# pyinfra_cli patches the standard library for gevent: nothing that it patches may be imported before it
import pyinfra_cli  # type: ignore[import-untyped]  # isort: skip

import ctypes
import json
import logging
import os
import signal
import sys
from typing import Any

from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operations import run_ops
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_config, ctx_inventory, ctx_state
from pyinfra_cli.util import load_deploy_file  # type: ignore[import-untyped]

assert pyinfra_cli  # noqa: S101 imported for what its import does


class _Errors(logging.Handler):
    """Keeps pyinfra's own words: it logs why a connection failed, and raises without saying."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.said.append(_plain(record.getMessage()))

    def about(self, host: str) -> str:
        """The last message about a host."""
        return next((text.partition("] ")[2] for text in reversed(self.said) if text.startswith(f"[{host}]")), "")


def _plain(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip()


def _host(entry: dict[str, Any], ssh_config: str) -> tuple[str, dict[str, Any]]:
    data = dict(entry["data"])
    if entry["connector"] == "local":
        return "@local", data
    data |= {"ssh_hostname": entry["name"], "ssh_config_file": ssh_config or None}
    return entry["name"], data | {"ssh_allow_agent": False, "ssh_look_for_keys": False}


def _outcome(state: State, host: Any, errors: _Errors) -> dict[str, Any]:
    results = state.get_results_for_host(host)
    output, failed = [], ""
    for op_hash in state.get_op_order():
        operation = state.ops[host].get(op_hash)
        if operation is None:
            continue
        meta = operation.operation_meta
        if not meta.is_complete():
            continue
        lines = [line.line for line in (meta._combined_output or [])]
        output += lines
        if not failed and not meta.did_succeed():
            failed = lines[-1] if lines else "an operation failed"
    error = failed
    if not error and host in state.failed_hosts:
        error = errors.about(host.name) or "it could not be reached"
    changed = sum(1 for data in state.ops[host].values() if data.operation_meta.is_complete() and _changed(data))
    return {"operations": results.ops, "changed": changed, "output": "\n".join(output), "error": error}


def _changed(data: Any) -> bool:
    return bool(data.operation_meta.did_change())


PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Be killed when the process that asked for the deploy is, at any moment: nobody else knows of this one.

    (gevent's loop went on for ever when an `up` had been killed.)
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it was killed before
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run what standard input asks for.  Nothing but the outcomes goes to standard output."""
    end_with(int(sys.argv[1]))
    request = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr
    errors = _Errors()
    logger = logging.getLogger("pyinfra")
    logger.addHandler(errors)
    logger.propagate = False
    entries = [_host(entry, request["ssh_config"]) for entry in request["hosts"]]
    inventory = Inventory((entries, {}))
    config = Config(FAIL_PERCENT=100, CONNECT_TIMEOUT=15)
    state = State(inventory, config)
    ctx_state.set(state)
    ctx_config.set(config)
    ctx_inventory.set(inventory)
    trouble = ""
    try:
        state.set_stage(StateStage.Connect)
        connect_all(state)
        state.set_stage(StateStage.Prepare)
        load_deploy_file(state, request["deploy"])
        state.set_stage(StateStage.Execute)
        run_ops(state)
        state.set_stage(StateStage.Disconnect)
        disconnect_all(state)
    except PyinfraError as e:
        trouble = _plain(str(e)) or type(e).__name__
    names = {name: entry["name"] for (name, _), entry in zip(entries, request["hosts"], strict=True)}
    outcomes = {names[host.name]: _outcome(state, host, errors) for host in inventory}
    for outcome in outcomes.values():
        if trouble and not outcome["error"]:
            outcome["error"] = trouble
    json.dump(outcomes, out)


if __name__ == "__main__":
    main()
