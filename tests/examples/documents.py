"""The commands and files that the documents show."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from testbed.host.directories import testbed_home

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^# file: (\S+)\n")


@dataclass(frozen=True)
class Document:
    """A page: commands in order, and the files that it asks its reader to write."""

    path: Path
    commands: tuple[tuple[str, ...], ...]
    files: dict[str, str]


def documents():
    """Every page with anything to run."""
    home = testbed_home()
    pages = [home / "README.md", home / "CONTRIBUTING.md", *sorted((home / "docs").rglob("*.md"))]
    return [d for d in map(read, pages) if d.commands]


def read(path):
    """One page."""
    commands, files = [], {}
    for language, body in _BLOCK.findall(path.read_text()):
        if found := _FILE.match(body):
            files[found[1]] = body
        if language == "console":
            lines = (line[2:] for line in body.splitlines() if line.startswith("$ "))
            commands += [tuple(shlex.split(line, comments=True)) for line in lines]
    return Document(path, tuple(commands), files)
