"""How long the compiler takes: everything, and after one resource has changed.

    python benchmarks/compile.py [--services 100 1000 3000] [--proxies 100]

Each service has two workloads, a VirtualService, a DestinationRule with two subsets and an AuthorizationPolicy.
Times are of this process on one core; memory is the process's peak (resident set).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from ipaddress import IPv4Address

from testbed.compiler import CompileCache, compile_mesh
from testbed.model.topology import MeshService, MeshWorkload, Protocol, ServicePort, Topology
from testbed.resources import Resource, ResourceSet
from testbed.resources.authorization import AuthorizationPolicy
from testbed.resources.destination_rule import DestinationRule
from testbed.resources.loading import resource as made
from testbed.resources.sidecar import Sidecar
from testbed.resources.virtual_service import VirtualService

PORT = ServicePort("http", 9080, Protocol.HTTP, 9080)


def topology(count: int, namespaces: int = 1) -> Topology:
    """``count`` services, spread over namespaces, with two workloads each."""
    services, workloads = [], []
    for i in range(count):
        name, namespace = f"service-{i}", f"team-{i % namespaces}"
        address = IPv4Address("240.240.0.1") + i
        services.append(MeshService(name, namespace, address, (PORT,), {"app": name}))
        for version in (1, 2):
            workloads.append(
                MeshWorkload(
                    f"{name}-v{version}",
                    namespace,
                    name,
                    {"app": name, "version": f"v{version}"},
                    IPv4Address("10.0.0.1") + 2 * i + version,
                    f"node-{i % 50}",
                    ports=(PORT,),
                    service=name,
                )
            )
    return Topology(tuple(services), tuple(workloads))


def virtual_service(i: int, weight: int, namespace: str) -> Resource[VirtualService]:
    """A split of ``/reviews``, and all else to the first subset."""
    name = f"service-{i}"
    spec = {
        "hosts": [name],
        "http": [
            {
                "match": [{"uri": {"prefix": "/reviews"}}, {"headers": {"end-user": {"exact": "jason"}}}],
                "route": [
                    {"destination": {"host": name, "subset": "v1"}, "weight": weight},
                    {"destination": {"host": name, "subset": "v2"}, "weight": 100 - weight},
                ],
                "timeout": "2s",
                "retries": {"attempts": 3, "perTryTimeout": "500ms"},
            },
            {"route": [{"destination": {"host": name, "subset": "v1"}}]},
        ],
    }
    return made(VirtualService.model_validate(spec), name, namespace)


def resources(count: int, namespaces: int = 1, sidecar: bool = False) -> ResourceSet:
    """What goes with :func:`topology`; with ``sidecar``, each namespace sees only itself."""
    found = []
    for i in range(count):
        name, namespace = f"service-{i}", f"team-{i % namespaces}"
        rule = {
            "host": name,
            "trafficPolicy": {
                "loadBalancer": {"simple": "ROUND_ROBIN"},
                "connectionPool": {"tcp": {"maxConnections": 100}},
            },
            "subsets": [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")],
        }
        policy = {
            "selector": {"matchLabels": {"app": name}},
            "rules": [{"from": [{"source": {"principals": [f"cluster.local/ns/{namespace}/sa/service-{i - 1}"]}}]}],
        }
        found.append(virtual_service(i, 75, namespace))
        found.append(made(DestinationRule.model_validate(rule), name, namespace))
        found.append(made(AuthorizationPolicy.model_validate(policy), name, namespace))
    if sidecar:
        for i in range(namespaces):
            spec = Sidecar.model_validate({"egress": [{"hosts": ["./*"]}]})
            found.append(made(spec, "default", f"team-{i}"))
    return ResourceSet(found)


def measure(count: int, proxies: int, namespaces: int, sidecar: bool) -> None:
    """Compile, change one weight, compile again."""
    mesh, wanted = topology(count, namespaces), resources(count, namespaces, sidecar)
    names = [w.name for w in mesh.workloads]
    chosen = frozenset(names[:: max(1, len(names) // proxies)][:proxies])
    cache = CompileCache()
    start = time.perf_counter()
    first = compile_mesh(wanted, mesh, cache=cache, only=chosen)
    full = time.perf_counter() - start
    start = time.perf_counter()
    compile_mesh(wanted, mesh, cache=cache, only=chosen)
    nothing = time.perf_counter() - start
    changed = wanted.merged(ResourceSet([virtual_service(count // 2, 50, f"team-{count // 2 % namespaces}")]))
    start = time.perf_counter()
    second = compile_mesh(changed, mesh, cache=cache, only=chosen)
    one = time.perf_counter() - start
    files = sum(1 for w in chosen for p, f in second[w].files.items() if first[w].files[p].version != f.version)
    touched = sum(1 for w in chosen if first[w].revision != second[w].revision)
    bytes_ = sum(len(f.content) for f in first[next(iter(sorted(chosen)))].files.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{count:5} services {namespaces:4} namespaces{' (Sidecar: own only)' if sidecar else '':21}"
        f" {len(chosen):4} proxies"
        f" | full {full:6.2f} s | unchanged {nothing * 1000:6.0f} ms | one VirtualService {one * 1000:6.0f} ms,"
        f" {files} files of {touched} proxies | {bytes_ / 1e6:5.1f} MB a proxy | peak {peak:5.0f} MiB",
        flush=True,
    )


def main() -> None:
    """Print a line per size, each measured in a process of its own so that memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--services", type=int, nargs="+", default=[100, 1000, 3000])
    parser.add_argument("--proxies", type=int, default=100)
    parser.add_argument("--namespaces", type=int)
    parser.add_argument("--sidecar", action="store_true")
    args = parser.parse_args()
    if args.namespaces is not None:
        measure(args.services[0], args.proxies, args.namespaces, args.sidecar)
        return
    for count in args.services:
        for namespaces, sidecar in ((1, False), (max(1, count // 10), True)):
            command = [sys.executable, __file__, "--services", str(count), "--proxies", str(args.proxies)]
            command += ["--namespaces", str(namespaces), *(["--sidecar"] if sidecar else [])]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
