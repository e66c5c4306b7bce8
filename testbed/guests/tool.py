"""How the program on a node is started that looks at its proxies and gives them files (``testbed_xds.py``)."""

TOOL: tuple[str, ...] = (
    "python3",
    "-ISE",
    "-X",
    "pycache_prefix=/run/testbed-pycache",
    "-c",
    "import sys; sys.path.insert(0, '/opt/testbed/node'); import testbed_xds; testbed_xds.run()",
)
"""Without site packages, and as a module whose compiled form is kept: on an emulated machine looking for the ones
and compiling the other is most of Python's start."""
APPLY: tuple[str, ...] = (*TOOL, "apply")
