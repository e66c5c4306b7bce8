"""The inventory's JSON Schema (2020-12), which editors complete and check with."""

from __future__ import annotations

import json

from testbed.model.inventory import Inventory


def inventory_schema() -> str:
    """The schema's text, as it stands in ``inventories/schema.json``."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Inventory.model_json_schema(by_alias=True),
    }
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
