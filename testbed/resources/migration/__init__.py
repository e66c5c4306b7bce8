"""Outdated manifests to today's, as text: comments and order stay, and what changes meaning is said."""

from testbed.resources.migration.rewriting import Migration, migrate

__all__ = ["Migration", "migrate"]
