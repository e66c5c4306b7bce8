"""`vagrant up` with the provider libvirt."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from peers.host import Host

BOX, VERSION = "peer", "1.0.0"
_OFFLINE = {"VAGRANT_DEFAULT_PROVIDER": "libvirt", "VAGRANT_CHECKPOINT_DISABLE": "1", "VAGRANT_NO_COLOR": "1"}


class Vagrant:
    """Vagrant: all machines of one Vagrantfile, side by side, of a box that is in the pool already."""

    name = "vagrant"

    def missing(self) -> str:
        """Why it can't be measured."""
        if shutil.which("vagrant") is None:
            return "there is no vagrant"
        listed = subprocess.run(["dpkg-query", "-W", "vagrant-libvirt"], capture_output=True, check=False)
        return "" if listed.returncode == 0 else "there is no vagrant-libvirt"

    def prepare(self, host: Host, disk: Path, count: int) -> None:
        """Add the box, and do what its first `up` would: lay its image into the pool."""
        box = host.home / ".vagrant.d" / "boxes" / BOX / VERSION / "libvirt"
        box.mkdir(parents=True, exist_ok=True)
        for name, content in box_files().items():
            (box / name).write_text(content)
        for place in (box / "box.img", host.pool / f"{BOX}_vagrant_box_image_{VERSION}_box.img"):
            place.unlink(missing_ok=True)
            os.link(disk, place)
        host.run("virsh", "pool-refresh", "default")
        self._project(host).mkdir(exist_ok=True)
        (self._project(host) / "Vagrantfile").write_text(vagrantfile(count, host.key_file, emulated=host.emulated))
        self._run(host, "validate")

    def start(self, host: Host, disk: Path, count: int) -> None:
        """It waits for SSH itself, too."""
        del disk, count
        self._run(host, "up")

    def remove(self, host: Host, count: int) -> None:
        """With their disks and the network that it made."""
        del count
        self._run(host, "destroy", "--force")

    def _project(self, host: Host) -> Path:
        return host.home / "vagrant"

    def _run(self, host: Host, *arguments: str) -> None:
        host.run("vagrant", *arguments, cwd=self._project(host), more=_OFFLINE)


def box_files() -> Mapping[str, str]:
    """What a box has beside its image.  The size is that of a machine's disk, in GiB."""
    about = {"provider": "libvirt", "format": "qcow2", "virtual_size": 10}
    return {"metadata.json": json.dumps(about) + "\n", "Vagrantfile": 'Vagrant.configure("2") { |config| }\n'}


def vagrantfile(count: int, key: Path, *, emulated: bool) -> str:
    """So many machines of the box, as the provider makes them.

    No folder is shared with them: the image has what no way of sharing needs.
    """
    driver = '    libvirt.driver = "qemu"\n' if emulated else ""
    return f"""\
Vagrant.configure("2") do |config|
  config.vm.box = "{BOX}"
  config.vm.box_check_update = false
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.ssh.username = "root"
  config.ssh.sudo_command = "%c"
  config.ssh.private_key_path = "{key}"
  config.vm.provider "libvirt" do |libvirt|
{driver}  end
  (0...{count}).each do |number|
    config.vm.define "peer-#{{number}}"
  end
end
"""
