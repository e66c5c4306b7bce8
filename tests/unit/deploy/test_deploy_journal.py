"""The line of a journal that tells why a node is not there yet."""

import pytest

from testbed.deploy.journal import telling_lines

STARTED = 'time="2026-11-29T22:00:00Z" level=info msg="Starting k3s agent v1.35.6+k3s1 (abc)"'
JOINS = (
    'time="2026-11-29T22:00:05Z" level=error msg="Failed to validate connection to cluster at https://10.77.0.9:6443: '
    'failed to get CA certs: Get \\"https://127.0.0.1:6444/cacerts\\": EOF"'
)
SKEWED = "E1129 22:00:06.123456    1234 reflector.go:200] tls: x509: certificate is not yet valid"
WARNED = "W1129 22:00:07.000000    1234 client.go:1] retrying"
INFO = "I1129 22:00:08.000000    1234 shared_informer.go:350] Waiting for caches to sync"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], ""),
        (["", "  "], ""),
        ([STARTED], "Starting k3s agent v1.35.6+k3s1 (abc)"),
        ([JOINS, STARTED], "error: Failed to validate connection to cluster at https://10.77.0.9:6443: failed to get CA certs: "
         'Get "https://127.0.0.1:6444/cacerts": EOF | last: Starting k3s agent v1.35.6+k3s1 (abc)'),
        ([JOINS, SKEWED, WARNED, INFO], "error: tls: x509: certificate is not yet valid | last: Waiting for caches to sync"),
        ([STARTED, SKEWED], "tls: x509: certificate is not yet valid"),
        ([WARNED, INFO], "Waiting for caches to sync"),
        (["Main process exited, code=exited, status=1/FAILURE"], "Main process exited, code=exited, status=1/FAILURE"),
    ],
    ids=["none", "blank", "one", "an error before", "the last error", "once", "no error", "systemd's own"],
)  # fmt: skip
def test_the_last_error_is_told_beside_the_last_line(lines, says):
    assert telling_lines(lines) == says


def test_a_long_line_is_cut():
    assert len(telling_lines(["x" * 5000])) == 300
