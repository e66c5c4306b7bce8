"""Other programs that start machines, measured beside Testbed: each is told to start as many from the same disk.

A peer is given a libvirt daemon and a network namespace of its own (:mod:`.host`), the disk (:mod:`.base`) and
nothing else; it uses its own defaults, but for the emulator where KVM can't be used.
"""

from peers.host import Host
from peers.kcli import Kcli
from peers.measuring import ALL, Measured, Peer, measure_peers, ratio
from peers.vagrant import Vagrant
from peers.virt_install import VirtInstall

__all__ = ["ALL", "Host", "Kcli", "Measured", "Peer", "Vagrant", "VirtInstall", "measure_peers", "ratio"]
