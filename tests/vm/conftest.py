"""Tests on real machines share one lab, but for those that make or break labs of their own."""

import os

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if "/tests/vm/" in str(item.path):
            item.add_marker(pytest.mark.vm)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: a lab with a libvirt daemon of its own"))
