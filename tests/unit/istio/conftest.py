"""The connection to the API server that a test file plays in its fixture ``server``."""

import pytest

from testbed.backends.istio.api import KubeApi
from testbed.host.namespaces import HostNetwork


@pytest.fixture
def api(server):
    api = KubeApi(server.access, HostNetwork().dial, 10)
    yield api
    api.close()
