"""A proxy's files as one static configuration: ``envoy --mode validate`` does not look into files that it would
subscribe to, so what they hold is put in their place."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from testbed.compiler import Layout, bootstrap
from testbed.model.proxy import ProxyConfiguration
from testbed.model.topology import Topology
from testbed.pki import LabCa, Validity


def static_bootstrap(
    configuration: ProxyConfiguration, topology: Topology, layout: Layout, secrets: Path
) -> dict[str, Any]:
    """The bootstrap with clusters, endpoints, listeners and routes in it; secrets are read from a folder."""
    content = {path: json.loads(file.content) for path, file in configuration.files.items()}
    out: dict[str, Any] = json.loads(bootstrap(topology.workload(configuration.workload), topology, layout))
    out.pop("dynamic_resources")
    routes = {
        r["name"]: _plain(r) for path in content if path.startswith("rds/") for r in content[path]["resources"]
    }
    resources = out["static_resources"]
    for listener in content["lds.json"]["resources"]:
        for holder in _holders(listener, "rds"):
            holder["route_config"] = routes[holder.pop("rds")["route_config_name"]]
        resources["listeners"].append(_plain(listener))
    resources["clusters"] = []
    for cluster in content["cds.json"]["resources"]:
        if cluster.get("type") == "EDS":
            source = cluster.pop("eds_cluster_config")["eds_config"]["path_config_source"]["path"]
            path = "eds/" + source.rpartition("/")[2]
            cluster["load_assignment"] = _plain(content[path]["resources"][0])
            cluster["type"] = "STATIC"
        resources["clusters"].append(_plain(cluster))
    for holder in _holders(out, "tls_certificate_sds_secret_configs"):
        del holder["tls_certificate_sds_secret_configs"]
        holder["tls_certificates"] = [{k: {"filename": str(secrets / f)} for k, f in _PAIR.items()}]
    for holder in _holders(out, "combined_validation_context"):
        combined = holder.pop("combined_validation_context")
        holder["validation_context"] = combined.get("default_validation_context", {})
        holder["validation_context"]["trusted_ca"] = {"filename": ""}
    for key, file in ({"trusted_ca": "cert.pem"} | _PAIR).items():
        for holder in _holders(out, key):
            holder[key] = {"filename": str(secrets / file)}
    for holder in _holders(out, "crl"):
        del holder["crl"]
    return out


_PAIR = {"certificate_chain": "cert.pem", "private_key": "key.pem"}


def make_secrets(folder: Path) -> None:
    """A certificate and a key, to stand for all that the lab would issue."""
    ca = LabCa.create("validation")
    credential = ca.issue("spiffe://cluster.local/ns/default/sa/any", Validity.lasting())
    (folder / "cert.pem").write_bytes(credential.chain)
    (folder / "key.pem").write_bytes(credential.key)


def validate(
    configurations: Iterable[ProxyConfiguration], topology: Topology, envoy: Path, work: Path
) -> Iterator[tuple[str, str]]:
    """What Envoy says against each configuration that it does not take, by workload."""
    layout = Layout(str(work), str(work))
    make_secrets(work)
    for configuration in configurations:
        (work / configuration.workload).mkdir(exist_ok=True)
        file = work / "static.json"
        file.write_text(json.dumps(static_bootstrap(configuration, topology, layout, work)))
        done = subprocess.run(
            [envoy, "--mode", "validate", "-c", file, "-l", "warning", "--base-id", "7"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stdout + done.stderr).splitlines()
            yield configuration.workload, "\n".join(line for line in said if "[critical]" in line) or said[-1]


def _plain(resource: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resource.items() if key != "@type"}


def _holders(value: Any, key: str) -> Iterator[dict[str, Any]]:
    """Every mapping below ``value`` that has ``key``."""
    if isinstance(value, dict):
        if key in value:
            yield value
        for inner in list(value.values()):
            yield from _holders(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _holders(inner, key)
