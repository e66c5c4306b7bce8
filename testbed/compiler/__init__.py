"""Resources and topology in, Envoy configuration for every proxy out.  Follows istiod 1.30; does no I/O."""

from testbed.compiler.bootstrap import bootstrap, node_id
from testbed.compiler.layout import Layout
from testbed.compiler.memory import CompileCache
from testbed.compiler.mesh import compile_mesh
from testbed.compiler.registration import service_addresses
from testbed.compiler.security import SecurityInputs

__all__ = [
    "CompileCache",
    "Layout",
    "SecurityInputs",
    "bootstrap",
    "compile_mesh",
    "node_id",
    "service_addresses",
]
