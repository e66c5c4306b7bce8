"""Mesh-wide settings of an inventory: what is read, and what is refused with its place."""

from __future__ import annotations

import pytest

from testbed.documents import parse
from testbed.errors import BadInput
from testbed.model.reading import read_inventory
from testbed.workflows.loading import check_mesh_config

INVENTORY = """
id: settings
nodes: [{{name: one}}]
mesh:
  config:
    {}
"""


def check(config: str) -> None:
    text = INVENTORY.format(config)
    (document,) = parse(text, "inventory.yaml")
    check_mesh_config(read_inventory(text, "inventory.yaml"), document)


def test_extension_providers_are_read() -> None:
    check("extensionProviders: [{name: asker, envoyExtAuthzGrpc: {service: a.example, port: 9191, timeout: 2s}}]")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("defaultConfig: {}", "inventory.yaml:6:5: mesh.config.defaultConfig: unknown field 'defaultConfig'"),
        ("extensionProviders: [{name: Asker, envoyExtAuthzGrpc: {service: a, port: 1}}]", "name"),
        ("extensionProviders: [{name: asker}]", "expected one of envoyExtAuthzHttp and envoyExtAuthzGrpc"),
        ("extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: a, port: 0}}]", "port"),
        ("extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: a, port: 1, statusOnError: '999'}}]", "999"),
        (
            "extensionProviders: [{name: a, envoyExtAuthzHttp: "
            "{service: a, port: 1, headersToUpstreamOnAllow: ['*']}}]",
            "headersToUpstreamOnAllow",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(config: str, message: str) -> None:
    with pytest.raises(BadInput) as refused:
        check(config)
    assert message in str(refused.value)
    assert refused.value.problems[0].location.line == 6
