"""A machine whose clock is wrong judges tokens and certificates by it, and at once: connections are made anew."""

import base64
import json
import time
from functools import partial

import pytest
from commands import SHARED
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from testbed.documents import parse
from testbed.faults.breaking import Breaker
from testbed.model.fault import Fault
from testbed.model.verdict import Outcome
from testbed.resources import load
from testbed.scenarios import check
from testbed.workflows.loading import load_lab
from testbed.workflows.verify import lab_under_test

NODE, SERVICE = "app-3", "login"
ISSUER = "https://readers.example"
GUARD = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: clocks, namespace: default}}
spec:
  selector: {{matchLabels: {{app: login}}}}
  jwtRules: [{{issuer: "{issuer}", jwks: '{jwks}'}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: clocks, namespace: default}}
spec:
  selector: {{matchLabels: {{app: login}}}}
  action: ALLOW
  rules: [{{from: [{{source: {{requestPrincipals: ["{issuer}/*"]}}}}]}}]
"""


def plain(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(key, claims):
    head, body = (plain(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "clocks"}, claims))
    mark = key.sign(f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{head}.{body}.{plain(mark)}"


@pytest.fixture(scope="module")
def lab(bookinfo):
    with load_lab(SHARED).closing() as made:
        yield made


@pytest.fixture(scope="module")
def ask(lab):
    """Calls a service that asks for a token, with one that is good from half an hour ago for an hour."""
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_numbers()
    number = {"n": plain(public.n.to_bytes(256, "big")), "e": plain(public.e.to_bytes(3, "big"))}
    jwks = json.dumps({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "clocks", **number}]})
    now = int(time.time())
    token = signed(key, {"iss": ISSUER, "sub": "reader", "nbf": now - 1800, "exp": now + 1800})
    under_test = lab_under_test(lab)
    before = under_test.backend.applied()
    guard = load(parse(GUARD.format(issuer=ISSUER, jwks=jwks), "guard.yaml"))
    under_test.backend.apply(before.merged(guard))
    when = {"from": "client", "service": SERVICE, "path": "/login", "requests": 5}
    yield partial(check, under_test, when={**when, "headers": {"authorization": f"Bearer {token}"}})
    under_test.backend.apply(before)


def test_a_token_and_a_certificate_are_judged_by_the_clock_of_the_machine_that_asks_for_them(lab, ask):
    breaker = Breaker(lab)
    right, refused = {"status": 200}, {"denied": {"by": "jwt", "at": SERVICE}}
    assert ask(expect=right).outcome is Outcome.PASS
    for by, expected in (("1h", refused), ("-50m", refused), ("-3h", {"status": 503}), ("1440h", {"status": 503})):
        with breaker.breaking(Fault.model_validate({"kind": "clock-jump", "target": NODE, "by": by})) as made:
            assert made.proof.held, made.proof.words
            record = ask(expect=expected)
            assert record.outcome is Outcome.PASS, (by, record.verdict.reason)
        breaker.settle([made])
    last = ask(expect=right)
    assert last.outcome is Outcome.PASS, last.verdict.reason
