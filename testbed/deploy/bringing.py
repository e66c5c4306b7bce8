"""Releases that a machine gets after it was made: which files, and what the node does with them.  Pure.

A machine's shared disk stays as it is for as long as the machine does; what an upgrade needs goes to the node's own
disk, below :data:`~testbed.deploy.k3s.BROUGHT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from testbed.deploy.k3s import BROUGHT, DATA, FILL_OWN_DATA, OWN_DATA
from testbed.model.inventory import Node

_FILES = {"k3s/k3s": "k3s", "k3s/k3s-images.tar": "images.tar"}
_PILOT, _PACKAGE = "istio/pilot.tar", ".deb"
_IMAGES = "/var/lib/rancher/k3s/agent/images"

BEGIN = 'rm -rf "$1.new" && mkdir -p "$1.new"'
"""``$1`` is the folder of the release: it is there under its name once it is whole."""

RECEIVE = 'cat >"$1"'

UNPACK = 'mkdir -p "$1" && tar -x -C "$1"'

UNANSWERED = 75
"""How :data:`FINISH` ends while containerd does not answer, as when k3s is starting anew: it can be run again."""

FINISH = f"""
set -e
asked() {{
  k3s ctr --namespace k8s.io "$@" && return
  k3s ctr version >/dev/null 2>&1 && exit 1
  echo "containerd does not answer" >&2
  exit {UNANSWERED}
}}
dir=$1 data={DATA} own={OWN_DATA} images={_IMAGES}
if [ -f "$dir.new/k3s" ]; then
  chmod 755 "$dir.new/k3s"
{FILL_OWN_DATA}
  ln -sfn "$own" "$data.new"
  mv -T "$data.new" "$data"
  "$dir.new/k3s" ctr --version >/dev/null
fi
for archive in "$dir.new"/*.tar; do
  [ -e "$archive" ] || continue
  if [ -S /run/k3s/containerd/containerd.sock ]; then
    asked images import "$archive" >/dev/null
    rm "$archive"
  else
    # k3s brings them in when it starts
    mkdir -p "$images"
    mv "$archive" "$images/$(basename "$(dirname "$dir")")-$(basename "$archive")"
  fi
done
if [ -f "$dir.new/k3s" ] && [ -S /run/k3s/containerd/containerd.sock ]; then
  names=$(asked images list --quiet)
  for name in $names; do
    # containerd takes a pod's first image by the very name in its configuration
    case $name in docker.io/*pause*)
      asked images tag --force "$name" "${{name#docker.io/}}" ;;
    esac
  done >/dev/null
fi
rm -rf "$dir"
mv "$dir.new" "$dir"
"""


def place_of(release: str) -> str:
    """The folder of a release (``PRODUCT/VERSION``) that was brought."""
    return f"{BROUGHT}/{release}"


def files_for(node: Node, product: str, releases: Mapping[str, Path]) -> Mapping[str, Path]:
    """Name in the release's folder -> file on this host, of what the node needs of a product.

    ``releases``: path on the shared disk of a new machine -> file.  istiod runs on servers alone; proxies run on
    every node of the cluster, and the package is for machines outside it.
    """
    found = {place: file for place, file in releases.items() if place.startswith(f"{product}/")}
    if product == "k3s":
        return {name: found[place] for place, name in _FILES.items()} if node.cluster else {}
    if node.cluster is None:
        return {Path(place).name: file for place, file in found.items() if place.endswith(_PACKAGE)}
    return {
        Path(place).name: file
        for place, file in found.items()
        if place.endswith(".tar") and (place != _PILOT or node.cluster == "server")
    }
