"""The address of a cluster's API among several servers: Debian's keepalived, one beside each server.

Keepalived speaks version 2 of VRRP (RFC 3768, with the passwords of RFC 2338) in packets from server to server, so
no multicast is needed.  Pure: inventory in, files out.  docs/decisions/0008 says why.
"""

from __future__ import annotations

from testbed.deploy.files import NodeFile, UnitFiles
from testbed.model.clusters import API_PORT, api_address
from testbed.model.inventory import Inventory, Node

UNIT = "keepalived.service"
CONFIG = "/etc/keepalived/keepalived.conf"
CHECK = "/etc/keepalived/api-answers"

_MANAGEMENT_DEVICE = "eth0"
_ROUTER = 51
"""VRRP's number of the address; the management network is the lab's own, so nobody else uses one there."""
_HIGHEST, _STEP = 150, 10
_PASSWORD_LENGTH = 8
"""VRRP sends no more characters of a password."""

_TLS = "/var/lib/rancher/k3s/server/tls"


def keepalived_files(inventory: Inventory, node: Node, secret: str, tls: str = _TLS) -> UnitFiles:
    """Keepalived on ``node``, one of several servers; ``secret`` is the lab's own.

    ``tls`` is the folder with the API's certificate authority and the administrator's certificate, which the check
    shows: k3s answers nobody else.
    """
    address = f"{api_address(inventory)}/32"
    unit = (
        "[Service]",
        "Restart=always",
        "RestartSec=2s",
        # killed as a whole, it leaves the address behind, which another server has by then
        f"ExecStopPost=-/sbin/ip address delete {address} dev {_MANAGEMENT_DEVICE}",
        "",
    )
    return UnitFiles(
        UNIT,
        (
            NodeFile(CHECK, _check(tls), 0o700),
            NodeFile(CONFIG, _config(inventory, node, secret[:_PASSWORD_LENGTH], address), 0o600),
            NodeFile(f"/etc/systemd/system/{UNIT}.d/testbed.conf", "\n".join(unit)),
        ),
    )


def _config(inventory: Inventory, node: Node, password: str, address: str) -> str:
    servers = [s.name for s in inventory.servers()]
    peers = [str(inventory.management_address(s)) for s in servers if s != node.name]
    lines = (
        "global_defs {",
        f"    router_id {node.name}",
        "    script_user root",
        "    enable_script_security",
        "}",
        "",
        "vrrp_script api {",
        f'    script "{CHECK}"',
        "    interval 2",
        "    timeout 10",
        # an emulated server under load is late now and then: twice in a row counts, 20 s at most
        "    fall 2",
        "    rise 1",
        "    init_fail",
        "}",
        "",
        "vrrp_instance api {",
        # an address that is somewhere stays there: coming back is no reason to break connections a second time
        "    state BACKUP",
        "    nopreempt",
        f"    interface {_MANAGEMENT_DEVICE}",
        f"    virtual_router_id {_ROUTER}",
        f"    priority {_HIGHEST - _STEP * servers.index(node.name)}",
        "    advert_int 1",
        f"    unicast_src_ip {inventory.management_address(node.name)}",
        "    unicast_peer {",
        *(f"        {peer}" for peer in peers),
        "    }",
        "    authentication {",
        "        auth_type PASS",
        f"        auth_pass {password}",
        "    }",
        "    virtual_ipaddress {",
        f"        {address} dev {_MANAGEMENT_DEVICE}",
        "    }",
        "    track_script {",
        "        api",
        "    }",
        "}",
        "",
    )
    return "\n".join(lines)


def _check(tls: str) -> str:
    return f"""#!/bin/sh
# Whether this server's own API is ready (it says no while it stops, and while etcd has no majority).
exec curl --silent --fail --output /dev/null --max-time 8 --noproxy '*' --cacert {tls}/server-ca.crt \\
    --cert {tls}/client-admin.crt --key {tls}/client-admin.key https://127.0.0.1:{API_PORT}/readyz
"""
