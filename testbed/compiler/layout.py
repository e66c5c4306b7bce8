"""Where a proxy's files lie in the guest, and the marks that stand for those places until a proxy is known.

Most of what proxies read is the same for many of them, except that Envoy wants absolute paths in it.  So the
shared parts are rendered once with marks in place of the paths, and the marks are replaced per proxy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from testbed.model.topology import MeshWorkload

DIRECTORY_MARK = "@proxy-directory@"
ACCESS_LOG_MARK = "@access-log@"

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Layout:
    """Absolute paths in the guest: under ``root`` a folder for each proxy, under ``log_root`` one for its log."""

    root: str = "/etc/testbed/proxies"
    log_root: str = "/var/log/testbed"

    def directory(self, workload: MeshWorkload) -> str:
        """The directory of the workload's proxy."""
        return f"{self.root}/{workload.name}"

    def access_log(self, workload: MeshWorkload) -> str:
        """The proxy's access log, one JSON object a line."""
        return f"{self.log_root}/{workload.name}/access.log"

    def outlier_log(self, workload: MeshWorkload) -> str:
        """The proxy's log of ejections, one JSON object a line (Envoy's ``OutlierDetectionEvent``)."""
        return f"{self.log_root}/{workload.name}/outlier.log"

    def marks(self, workload: MeshWorkload) -> dict[bytes, bytes]:
        """What each mark stands for in the files of this workload's proxy."""
        return {
            DIRECTORY_MARK.encode(): self.directory(workload).encode(),
            ACCESS_LOG_MARK.encode(): self.access_log(workload).encode(),
        }


def file_name(resource: str) -> str:
    """A resource's name as a file name: everything but letters, digits, dot, dash becomes an underscore."""
    return _UNSAFE.sub("_", resource)
