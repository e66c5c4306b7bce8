"""The addresses that move among several servers: Debian's keepalived, one beside each server.

One is the API's, in the management network, and is where an API is ready.  The other one is the router's, in the
mesh network: where machines outside the cluster send what is for pods and services, which any server passes on for
as long as its machine runs, whatever becomes of the API.

Keepalived speaks version 2 of VRRP (RFC 3768, with the passwords of RFC 2338) in packets from server to server, so
no multicast is needed.  Pure: inventory in, files out.  docs/decisions/0008 says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from testbed.deploy.files import NodeFile, UnitFiles
from testbed.deploy.k3s import ETCD_ANSWERS
from testbed.model.clusters import API_PORT, api_address, router_address
from testbed.model.inventory import Inventory, Node

UNIT = "keepalived.service"
CONFIG = "/etc/keepalived/keepalived.conf"
CHECK = "/etc/keepalived/api-answers"

_MANAGEMENT_DEVICE, _MESH_DEVICE = "eth0", "eth1"
_API, _ROUTER = 51, 52
"""VRRP's numbers of the addresses; the networks are the lab's own, so nobody else uses any there."""
_HIGHEST, _STEP = 150, 10
_PASSWORD_LENGTH = 8
"""VRRP sends no more characters of a password."""

_TLS = "/var/lib/rancher/k3s/server/tls"
_ANSWER = ETCD_ANSWERS + 5
"""Seconds that the check waits for what the API says of itself."""


def keepalived_files(inventory: Inventory, node: Node, secret: str, tls: str = _TLS) -> UnitFiles:
    """Keepalived on ``node``, one of several servers; ``secret`` is the lab's own.

    ``tls`` is the folder with the API's certificate authority and the administrator's certificate, which the check
    shows: k3s answers nobody else.
    """
    moving = {_MANAGEMENT_DEVICE: api_address(inventory), _MESH_DEVICE: str(router_address(inventory))}
    unit = (
        "[Service]",
        "Restart=always",
        "RestartSec=2s",
        # killed as a whole, it leaves its addresses behind, which another server has by then
        *(f"ExecStopPost=-/sbin/ip address delete {a}/32 dev {device}" for device, a in moving.items()),
        "",
    )
    return UnitFiles(
        UNIT,
        (
            NodeFile(CHECK, _check(tls), 0o700),
            NodeFile(CONFIG, _config(inventory, node, secret[:_PASSWORD_LENGTH]), 0o600),
            NodeFile(f"/etc/systemd/system/{UNIT}.d/testbed.conf", "\n".join(unit)),
        ),
    )


def _config(inventory: Inventory, node: Node, password: str) -> str:
    management = {s.name: str(inventory.management_address(s.name)) for s in inventory.servers()}
    mesh = {s.name: str(inventory.mesh_address(s.name)) for s in inventory.servers()}
    lines = (
        "global_defs {",
        f"    router_id {node.name}",
        "    script_user root",
        "    enable_script_security",
        "}",
        "",
        "vrrp_script api {",
        f'    script "{CHECK}"',
        # each look takes an emulated server perhaps half a second of a processor
        "    interval 5",
        f"    timeout {_ANSWER + 5}",
        # an emulated server under load is late now and then: twice in a row counts
        "    fall 2",
        "    rise 1",
        "    init_fail",
        "}",
        "",
        *_instance("api", _API, node, management, api_address(inventory), _MANAGEMENT_DEVICE, password),
        "    track_script {",
        "        api",
        "    }",
        "}",
        "",
        *_instance("router", _ROUTER, node, mesh, str(router_address(inventory)), _MESH_DEVICE, password),
        "}",
        "",
    )
    return "\n".join(lines)


def _instance(
    name: str, number: int, node: Node, servers: Mapping[str, str], address: str, device: str, password: str
) -> Iterator[str]:
    """One address, up to what else it depends on; ``servers``: each one's own address in that network."""
    yield from (
        f"vrrp_instance {name} {{",
        # an address that is somewhere stays there: coming back is no reason to break connections a second time
        "    state BACKUP",
        "    nopreempt",
        f"    interface {device}",
        f"    virtual_router_id {number}",
        f"    priority {_HIGHEST - _STEP * list(servers).index(node.name)}",
        "    advert_int 1",
        f"    unicast_src_ip {servers[node.name]}",
        "    unicast_peer {",
        *(f"        {peer}" for server, peer in servers.items() if server != node.name),
        "    }",
        "    authentication {",
        "        auth_type PASS",
        f"        auth_pass {password}",
        "    }",
        "    virtual_ipaddress {",
        f"        {address}/32 dev {device}",
        "    }",
    )


def _check(tls: str) -> str:
    return f"""#!/bin/sh
# Whether this server's own API is ready (it says no while it stops, and while etcd has no majority).
exec curl --silent --fail --output /dev/null --max-time {_ANSWER} --noproxy '*' --cacert {tls}/server-ca.crt \\
    --cert {tls}/client-admin.crt --key {tls}/client-admin.key https://127.0.0.1:{API_PORT}/readyz
"""
