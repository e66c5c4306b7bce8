"""Options that many commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from testbed.lab.lab import Lab

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_INVENTORY = "inventories/bookinfo.yaml"


def inventory_option(command: Command) -> Command:
    """``-i/--inventory``: a file, or the name of one in ``inventories/``; passed on as a :class:`Lab`."""
    return click.option(
        "-i",
        "--inventory",
        "lab",
        envvar="TESTBED_INVENTORY",
        default=DEFAULT_INVENTORY,
        show_default=True,
        callback=_load,
        help="the inventory: a file, or the name of one in inventories/",
    )(command)


def json_option(command: Command) -> Command:
    """``--json``: the result as JSON on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="the result as JSON, for programs")(command)


def _load(_context: click.Context, _parameter: click.Parameter, value: str) -> Lab:
    from testbed.workflows.loading import load_lab

    return load_lab(value)


def print_json(value: object) -> None:
    """Write ``value`` to stdout as JSON."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset | tuple):
        return sorted(value)
    return str(value)
