"""The inventory: what ``inventories/*.yaml`` mean.  ``schema.py`` writes these models out as a JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from testbed.model.topology import Protocol

_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SIZE = re.compile(r"^(\d+) ?(KiB|MiB|GiB)$")


def _size(value: object) -> int:
    if isinstance(value, str) and (match := _SIZE.match(value)):
        return int(match[1]) * _UNITS[match[2]]
    raise ValueError("expected a size such as 512MiB or 4GiB")


def _size_text(value: int) -> str:
    for unit in ("GiB", "MiB"):
        if value % _UNITS[unit] == 0:
            return f"{value // _UNITS[unit]}{unit}"
    return f"{value // 1024}KiB"


def _network(value: object) -> IPv4Network:
    try:
        network = IPv4Network(str(value))
    except ValueError as e:
        raise ValueError(f"expected an IPv4 network such as 10.77.0.0/24: {e}") from None
    if not 16 <= network.prefixlen <= 26:
        raise ValueError("expected a prefix length from /16 to /26, so that every node and workload has an address")
    return network


def _hypervisor(value: str) -> str:
    if value != "auto" and not re.match(r"^[a-z]+(\+[a-z]+)?://", value):
        raise ValueError("expected auto or a libvirt URI such as qemu:///system")
    if value.startswith("qemu+"):
        raise ValueError("remote hypervisors are not supported yet; write auto or qemu:///system")
    return value


Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
"""A DNS label (RFC 1123), at most 40 characters so that unit and domain names made from it stay legal."""

LabId = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$")]

Size = Annotated[
    int,
    BeforeValidator(_size),
    PlainSerializer(_size_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _SIZE.pattern, "examples": ["512MiB", "4GiB"]}),
]
"""Bytes, written with a binary unit."""

Network = Annotated[
    IPv4Network,
    BeforeValidator(_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["10.77.0.0/24"]}),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Host(_Model):
    """A hypervisor that nodes run on."""

    name: Name = "local"
    uri: Annotated[str, AfterValidator(_hypervisor)] = "auto"


class Image(_Model):
    """Which disk the nodes start from: a recipe in ``images/``, or a base image of somebody else's."""

    recipe: Name | None = None
    url: str | None = Field(None, pattern=r"^https?://")
    path: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")


def _image(value: object) -> object:
    return {"recipe": value} if isinstance(value, str) else value


class Networks(_Model):
    """Two networks: management, which faults never touch, and the mesh's own."""

    management: Network = IPv4Network("10.77.0.0/24")
    mesh: Network = IPv4Network("10.78.0.0/24")


class Mesh(_Model):
    """The mesh on the lab and what is put into it by default."""

    backend: Literal["standalone", "istio"] = "standalone"
    version: str | None = Field(None, pattern=r"^\d+\.\d+\.\d+$")
    """Of Istio; left out: the default of ``constraints/releases.yaml``."""
    mode: Literal["sidecar", "ambient"] = "sidecar"
    """Istio's data plane mode for pods; machines outside the cluster have sidecars in both."""
    trust_domain: str = Field("cluster.local", alias="trustDomain", pattern=r"^[a-z0-9.-]+$")
    resources: list[str] = []
    """Files or folders of Istio manifests that ``up`` applies, relative to the working directory."""
    scenario: str | None = None
    """The scenario that ``up`` proves at the end; none: only that the configuration is in force."""
    ca: str | None = None
    """Folder with a CA of somebody else's, its files called as in Istio's ``cacerts``; left out: the lab's own."""
    config: dict[str, Any] = {}
    """Mesh-wide settings under the names of Istio's MeshConfig; of these ``extensionProviders`` is read."""

    @property
    def is_ambient(self) -> bool:
        """Whether pods have no sidecars of their own."""
        return self.mode == "ambient"


class Secret(_Model):
    """Where a secret is: a file that only its owner can read, or an environment variable.  Never the secret."""

    file: str | None = None
    env: str | None = None


def _secret(value: object) -> object:
    if isinstance(value, dict) and len(value) == 1:
        [(kind, name)] = value.items()
        if isinstance(name, str) and (kind == "file" or (kind == "env" and _VARIABLE.match(name))):
            return value
    if isinstance(value, Secret):
        return value
    # of a type of its own, so that what was written is not shown: it may be the secret
    raise PydanticCustomError("secret", "expected where the secret is: {file: PATH} or {env: NAME}")


SecretPlace = Annotated[Secret, BeforeValidator(_secret)]


class Registry(_Model):
    """Where a node's containerd takes a registry's images from, and how it shows who it is there."""

    endpoints: list[Annotated[str, Field(pattern=r"^https?://[^/]")]] = Field(min_length=1)
    ca: str | None = None
    """File with the certificates (PEM) that the endpoints' own are checked against."""
    certificate: str | None = None
    """File with the certificate (PEM) that a node shows; ``key`` is its private key."""
    key: SecretPlace | None = None
    username: str | None = None
    password: SecretPlace | None = None


class Cluster(_Model):
    """The k3s cluster that the istio backend runs in; nodes say with ``cluster`` what they are in it."""

    version: str | None = Field(None, pattern=r"^v\d+\.\d+\.\d+\+k3s\d+$")
    """Of k3s; left out: the default of ``constraints/releases.yaml``."""
    api_address: IPv4Address | None = Field(None, alias="apiAddress")
    """With several servers: an address of the management network that moves between them."""
    pods: Network = IPv4Network("10.42.0.0/16")
    services: Network = IPv4Network("10.43.0.0/16")
    components: list[Literal["traefik", "servicelb", "metrics-server", "local-storage"]] = []
    """Which of k3s's packaged components run beside CoreDNS."""
    secrets_encryption: bool = Field(True, alias="secretsEncryption")
    """Whether secrets are encrypted where the cluster keeps its state."""
    audit_log: bool = Field(False, alias="auditLog")
    registries: dict[Annotated[str, Field(pattern=r"^(\*|[a-z0-9][a-z0-9.-]*(:[0-9]+)?)$")], Registry] = {}
    """By the name that images begin with (``docker.io``), or ``*`` for all others."""


class Node(_Model):
    """A virtual machine.  ``number`` fixes its addresses in both networks; left out, it goes by order."""

    name: Name
    vcpus: int = Field(1, ge=1, le=64)
    memory: Size = 640 * 1024**2
    disk: Size = 4 * 1024**3
    role: Name = "node"
    cluster: Literal["server", "agent"] | None = None
    """What it is in the cluster of the istio backend; none: a machine outside it."""
    locality: str = Field("", pattern=r"^([a-z0-9-]+(/[a-z0-9-]+){0,2})?$")
    host: Name = "local"
    number: int | None = Field(None, ge=10, le=200)


class Port(_Model):
    """A port of a service; Istio takes the protocol from the name's prefix unless ``protocol`` says it."""

    name: Name
    port: int = Field(ge=1, le=65535)
    target_port: int | None = Field(None, alias="targetPort", ge=1, le=65535)
    protocol: Protocol | None = None

    @property
    def protocol_or_default(self) -> Protocol:
        """Istio's protocol selection: the field, else the name's prefix, else TCP."""
        if self.protocol is not None:
            return self.protocol
        if self.name.lower().startswith("grpc-web"):
            return Protocol.GRPC_WEB
        prefix = self.name.split("-")[0].upper()
        return Protocol(prefix) if prefix in Protocol.__members__ else Protocol.TCP


class Service(_Model):
    """A name that can be called."""

    name: Name
    namespace: Name = "default"
    ports: list[Port] = Field(min_length=1)


MOST_REPLICAS = 50
"""Of one workload."""


def _nodes(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Workload(_Model):
    """One version of a service: ``replicas`` instances of it, spread over ``node`` in turn."""

    service: Name
    version: Name = "v1"
    namespace: Name = "default"
    service_account: Name | None = Field(None, alias="serviceAccount")
    node: Annotated[list[Name], BeforeValidator(_nodes), Field(min_length=1)]
    replicas: int = Field(1, ge=1, le=MOST_REPLICAS)
    labels: dict[str, str] = {}
    program: Name = "bookinfo"
    """Which sample program runs (a folder's file in ``images/``); ``none`` runs nothing: a mere client."""
    settings: dict[str, str] = {}
    """Environment of the program."""


class Gateway(_Model):
    """An ingress gateway: an Envoy that is its own workload; Gateway resources pick it by ``labels``."""

    name: Name = "ingressgateway"
    namespace: Name = "istio-system"
    service_account: Name | None = Field(None, alias="serviceAccount")
    node: Name
    labels: dict[str, str] = {"istio": "ingressgateway"}
    ports: list[Port] = [Port(name="http", port=80)]
    forward: int | None = Field(None, ge=0, le=65535)
    """Loopback port of the host that ``up`` forwards to the first port; 0 picks a free one; left out: none."""


class Inventory(_Model):
    """A lab, as written down."""

    id: LabId
    description: str = ""
    hosts: list[Host] = Field([Host()], min_length=1)
    image: Annotated[Image, BeforeValidator(_image)] = Image(recipe="debian-12")
    networks: Networks = Networks()
    mesh: Mesh = Mesh()
    cluster: Cluster = Cluster()
    nodes: list[Node] = Field(min_length=1, max_length=100)
    services: list[Service] = []
    workloads: list[Workload] = []
    gateways: list[Gateway] = []

    def numbers(self) -> dict[str, int]:
        """Each node's number: the host part of its addresses, counted from the network's start."""
        taken = {n.number for n in self.nodes if n.number is not None}
        free = (n for n in range(10, 201) if n not in taken)
        return {n.name: n.number if n.number is not None else next(free) for n in self.nodes}

    def servers(self) -> list[Node]:
        """Nodes that run the cluster's control plane, in order; the first one starts it."""
        return [n for n in self.nodes if n.cluster == "server"]

    def agents(self) -> list[Node]:
        """Nodes that only run pods."""
        return [n for n in self.nodes if n.cluster == "agent"]

    def management_address(self, node: str) -> IPv4Address:
        """The node's fixed address in the management network."""
        return self.networks.management.network_address + self.numbers()[node]

    def mesh_address(self, node: str) -> IPv4Address:
        """The node's fixed address in the mesh network (its workloads have others of their own)."""
        return self.networks.mesh.network_address + self.numbers()[node]


def walk_names(inventory: Inventory) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Names that must be unique, each with its path, as ``kind name``."""
    for i, node in enumerate(inventory.nodes):
        yield f"node {node.name}", ("nodes", i, "name")
    for i, service in enumerate(inventory.services):
        yield f"service {service.namespace}/{service.name}", ("services", i, "name")
    for i, host in enumerate(inventory.hosts):
        yield f"host {host.name}", ("hosts", i, "name")
