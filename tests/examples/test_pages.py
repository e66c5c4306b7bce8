"""What the documents show exists: commands with their options, and the files that links lead to."""

import re

import click
import pytest
from documents import documents

from testbed.cli import app
from testbed.host.directories import testbed_home as home

PAGES = [home() / "README.md", home() / "CONTRIBUTING.md", *(home() / "docs").rglob("*.md")]
TARGETS = re.findall(r"^([a-z]+):", (home() / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("document", documents(), ids=lambda d: d.path.stem)
def test_commands_and_options_exist(document):
    for words in document.commands:
        if words[0] == "make":
            assert words[1] in TARGETS
        elif words[0] == "testbed":
            group = click.Context(app)
            name, command, rest = app.resolve_command(group, list(words[1:]))
            while isinstance(command, click.Group):
                group = click.Context(command, parent=group)
                name, command, rest = command.resolve_command(group, rest)
            own = rest[: rest.index("--")] if "--" in rest else rest
            command.make_context(name, list(rest), parent=group, resilient_parsing=True)
            options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            assert {w.partition("=")[0] for w in own if w.startswith("-")} <= options | {"-h", "--help"}
