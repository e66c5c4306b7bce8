"""Reference pages that are written from the code: ``docs/reference/lint.md`` and ``migrate.md``."""

from __future__ import annotations

from testbed.resources.kinds import IGNORED_KINDS, KINDS
from testbed.resources.linting import CHECKS
from testbed.resources.outdated import OUTDATED_FIELDS, OUTDATED_KINDS
from testbed.resources.refused import REFUSED_FIELDS, REFUSED_KINDS

_NOTE = "<!-- Written by tests/unit/test_resources_pages.py; run it with TESTBED_WRITE=1 to renew this page. -->"

_LINT = """\
# testbed lint

    testbed lint FILE… [--json | --sarif]

reads manifests as `apply` does, and says what is wrong with them or probably not meant. Each finding has file,
line, column and field path, a severity, what Istio does with it, and what to write. Exit code 2 when there is an
error, else 0.

Nothing is dropped in silence: a field that Istio does not have is an error with the nearest right name (the API
server of a cluster would drop it), and so is all that Istio's own webhook refuses. Documents of Kubernetes' own
kinds ({ignored}) are left out, and that is said.

With an inventory, hosts, ports, subsets, selectors and callers are held against its services and workloads.
"""

_MIGRATE = """\
# testbed migrate

    testbed migrate FILE… [--write]

rewrites outdated manifests to today's. Comments and order are kept, documents without outdated forms stay as they
are, byte for byte. Without `--write` the new text is printed. What today's form can't say, and what now means
something else, is told as a warning with its place.

What it knows besides versions ({versions}):

- Fields in the spelling of the protobuf (`per_try_timeout`) get their name in YAML (`perTryTimeout`).
- A field at the column of a list's dashes, which is no YAML, is moved to the message that has it.
- A `prefix` or `exact` path that ends in `/*` becomes a prefix without the star. In an AuthorizationPolicy, where
  `/*` is right, a warning says that the path without it is not matched.
- `retryPolicy` in a connection pool: its number of tries and first pause go to the routes of a VirtualService in
  the same file (`attempts`, `backoff`); a factor and a longest pause can't be said.
- An ALLOW policy, once it is read, denies whatever it does not allow. Who is shut out is said.
- A policy with ALLOW and DENY rules becomes two, because a policy has one action.
- `origins` of a Policy become a RequestAuthentication, and an AuthorizationPolicy that denies requests without a
  token, unless `originIsOptional` was set.
"""


def lint_page() -> str:
    """``docs/reference/lint.md``."""
    ignored = ", ".join(kind for _, kind in IGNORED_KINDS)
    rows = [f"| `{c.code}` | {c.severity} | {c.summary} | {c.effect} |" for c in CHECKS]
    head = ["| code | severity | finds | what Istio does |", "| --- | --- | --- | --- |"]
    invalid = "| `invalid` | error | What Istio, or this mesh, refuses. | nothing of the document is applied |"
    left_out = "| `ignored-document` | info | A document of a kind that the mesh does not read. | it is left out |"
    return (
        "\n".join([_LINT.format(ignored=ignored).rstrip(), "", _NOTE, "", *head, invalid, *rows, left_out]) + "\n"
    )


def migrate_page() -> str:
    """``docs/reference/migrate.md``."""
    versions = "; ".join(
        f"{k.name}: {' and '.join(k.versions[1:])} to {k.versions[0]}" for k in KINDS if k.versions[1:]
    )
    kinds = [f"| {group} {kind} | {today} |" for (group, kind), today in OUTDATED_KINDS.items()]
    fields = [f"| `{field}` | {today} |" for field, today in OUTDATED_FIELDS.items()]
    refused = len(REFUSED_KINDS) + len(REFUSED_FIELDS)
    tail = f"What is refused rather than outdated ({refused} kinds and fields) is in [coverage](coverage.md)."
    head = ["| outdated | today |", "| --- | --- |"]
    intro = _MIGRATE.format(versions=versions).rstrip()
    return "\n".join([intro, "", _NOTE, "", *head, *kinds, *fields, "", tail]) + "\n"
