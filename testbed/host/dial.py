"""``python -m testbed.host.dial LAB ADDRESS PORT``: standard input and output become a connection into the lab.

Made for SSH's ProxyCommand, which waits for it before every first connection: it starts quickly.
"""

from __future__ import annotations

import os
import select
import socket
import sys

_CHUNK = 1 << 16


def relay(connection: socket.socket, read_from: int, write_to: int) -> None:
    """Copy both ways until the far end has closed; the end of ``read_from`` closes our sending half only."""
    connection.settimeout(None)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.register(read_from, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == read_from:
                data = os.read(read_from, _CHUNK)
                if data:
                    connection.sendall(data)
                else:
                    poll.unregister(read_from)
                    connection.shutdown(socket.SHUT_WR)
            else:
                data = connection.recv(_CHUNK)
                if not data:
                    return
                view = memoryview(data)
                while view:
                    view = view[os.write(write_to, view) :]


def main(arguments: list[str]) -> int:
    """Exit code 0 when the far end closed, 1 when the connection failed, 2 for wrong arguments."""
    if len(arguments) != 3 or not arguments[2].isdecimal():
        sys.stderr.write("usage: python -m testbed.host.dial LAB ADDRESS PORT\n")
        return 2
    from testbed.host.namespaces import LabNetwork

    lab, address, port = arguments
    try:
        connection = LabNetwork(lab).dial(address, int(port), 30)
        with connection:
            relay(connection, sys.stdin.fileno(), sys.stdout.fileno())
    except OSError as e:
        sys.stderr.write(f"lab {lab}: dial {address}:{port}: {e}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
