"""What a cluster's nodes would unpack, unpacked here: by stand-ins for k3s, its containerd and ctr."""

import os
from pathlib import Path

import pytest

from testbed.errors import LabError
from testbed.images.unpacked import unpack_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containerd runs in namespaces of its own: as root")

K3S = """#!/bin/sh
# unpacks itself at its first start, whatever it is asked for
[ -n "$K3S_DATA_DIR" ] || exit 9
made=$K3S_DATA_DIR/data/abc/bin
mkdir -p "$made" "$K3S_DATA_DIR/data/cni"
ln -s "$K3S_DATA_DIR/data/abc" "$K3S_DATA_DIR/data/current"
ln -s "$made/cni" "$K3S_DATA_DIR/data/cni/bridge"
touch "$made/cni"
cat >"$made/containerd" <<'END'
#!/bin/sh
root=$(sed -n 's/^root = "\\(.*\\)"/\\1/p' "$2") socket=$(sed -n 's/^  address = "\\(.*\\)"/\\1/p' "$2")
mkdir -p "$root/io.containerd.metadata.v1.bolt" "$root/io.containerd.snapshotter.v1.overlayfs/snapshots"
echo content >"$root/io.containerd.metadata.v1.bolt/meta.db"
echo layers >"$root/io.containerd.snapshotter.v1.overlayfs/metadata.db"
echo "$root" >"$socket"
[ -e /proc/net/dev ] && [ "$(grep -c : /proc/net/dev)" = 1 ] || { echo "there is a network"; exit 1; }
trap 'exit 0' TERM
while :; do sleep 0.1; done
END
cat >"$made/ctr" <<'END'
#!/bin/sh
[ -s "$2" ] || exit 1
[ "$3" = version ] && exit 0
[ "$3 $4 $5" = "--namespace k8s.io images" ] || exit 2
if [ "$6" = list ]; then
    printf '%s\n' docker.io/rancher/mirrored-pause:3.6 docker.io/istio/pilot:1 lab/echo:1
    exit
fi
[ "$6" = tag ] && exec echo "$7 $8" >>"$(cat "$2")/io.containerd.metadata.v1.bolt/meta.db"
[ "$6" = import ] || exit 2
grep -q broken "$7" && { echo "ctr: unexpected EOF" >&2; exit 1; }
root=$(cat "$2") name=$(basename "$7" .tar)
layer=$root/io.containerd.snapshotter.v1.overlayfs/snapshots/$name
mkdir -p "$layer/fs/bin" "$layer/work" "$root/io.containerd.content.v1.content/blobs/sha256"
cp "$7" "$layer/fs/bin/program"
cp "$7" "$root/io.containerd.content.v1.content/blobs/sha256/$name"
END
chmod +x "$made/containerd" "$made/ctr"
"""


@pytest.fixture
def top(tmp_path):
    top = tmp_path / "top"
    (top / "k3s").mkdir(parents=True)
    (top / "istio").mkdir()
    (top / "k3s/k3s").write_text(K3S)
    (top / "k3s/k3s").chmod(0o755)
    (top / "k3s/k3s-images.tar").write_text("one")
    (top / "istio/pilot.tar").write_text("two")
    return top


def test_k3ss_own_folder_is_there_as_it_makes_it_and_leads_nowhere_else(top):
    unpack_cluster(top)
    assert (top / "k3s/data/current").readlink() == Path("abc")
    assert (top / "k3s/data/cni/bridge").readlink() == Path("../abc/bin/cni")
    assert (top / "k3s/data/cni/bridge").exists()


def test_layers_and_blobs_stay_on_the_disk_and_the_rest_is_what_a_node_begins_with(top):
    unpack_cluster(top)
    assert not list(top.rglob("*.tar"))
    assert (top / "k3s/store/layers/pilot/bin/program").read_text() == "two"
    start = top / "k3s/store/start"
    assert (start / "io.containerd.metadata.v1.bolt/meta.db").read_text().splitlines() == [
        "content",
        "docker.io/rancher/mirrored-pause:3.6 rancher/mirrored-pause:3.6",
    ]
    own = start / "io.containerd.snapshotter.v1.overlayfs"
    assert (own / "metadata.db").read_text() == "layers\n"
    assert sorted(p.name for p in (own / "snapshots").iterdir()) == ["k3s-images", "pilot"]
    assert (own / "snapshots/pilot/fs").readlink() == Path("/opt/testbed/k3s/store/layers/pilot")
    assert (own / "snapshots/pilot/work").is_dir()
    blob = start / "io.containerd.content.v1.content/blobs/sha256/k3s-images"
    assert blob.readlink() == Path("/opt/testbed/k3s/store/blobs/sha256/k3s-images")
    assert (top / "k3s/store/blobs/sha256/k3s-images").read_text() == "one"
    assert [p.name for p in top.parent.iterdir()] == ["top"]


def test_an_archive_that_cant_be_unpacked_is_named(top):
    (top / "istio/pilot.tar").write_text("broken")
    with pytest.raises(LabError, match=r"unpack pilot\.tar.*unexpected EOF"):
        unpack_cluster(top)
    assert [p.name for p in top.parent.iterdir()] == ["top"]


def test_a_containerd_that_does_not_start_says_why(top):
    text = K3S.replace('echo "$root" >"$socket"', "echo no room >&2; exit 1")
    (top / "k3s/k3s").write_text(text)
    with pytest.raises(LabError, match=r"start containerd.*no room"):
        unpack_cluster(top)


def test_a_k3s_that_unpacks_nothing_is_no_k3s(top):
    (top / "k3s/k3s").write_text("#!/bin/sh\nmkdir -p $K3S_DATA_DIR/data\n")
    with pytest.raises(LabError, match="made no data/current"):
        unpack_cluster(top)
