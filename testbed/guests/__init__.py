"""A connection to a node.  The only room that imports paramiko; all above talk to ``NodeConnection``."""

from testbed.guests.connection import CommandFailed, Completed, NodeConnection, Program

__all__ = ["CommandFailed", "Completed", "NodeConnection", "Program"]
