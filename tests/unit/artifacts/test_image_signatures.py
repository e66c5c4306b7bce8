"""Images whose project signs them come with its signature or not at all: in either of Cosign's forms."""

import base64
import json
from functools import partial
from importlib import import_module

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from testbed.artifacts.catalogue import Artifact
from testbed.artifacts.registry import copy_image
from testbed.artifacts.sources import Releases
from testbed.errors import LabError

NAME = "istio/pilot"
EMPTY = "application/vnd.oci.empty.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNS = "https://sigstore.dev/cosign/sign/v1"


def public(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def signature(key, message):
    made = (
        key.sign(message, PKCS1v15(), SHA256())
        if isinstance(key, rsa.RSAPrivateKey)
        else key.sign(message, ec.ECDSA(SHA256()))
    )
    return base64.b64encode(made).decode()


def sign_simply(server, digest, key, about=None, kind="cosign container image signature"):
    """What Cosign 1 and 2 put at the tag."""
    identity = {"docker-reference": NAME}
    critical = {"identity": identity, "image": {"docker-manifest-digest": about or digest}, "type": kind}
    payload = json.dumps({"critical": critical, "optional": None}).encode()
    annotations = {"dev.cosignproject.cosign/signature": signature(key, payload)}
    layers = [("application/vnd.dev.cosign.simplesigning.v1+json", payload, annotations)]
    config = {"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest]}}
    tag = digest.replace(":", "-") + ".sig"
    server.put_artifact(NAME, tag, "application/vnd.oci.image.config.v1+json", config, layers)


def sign_in_a_bundle(server, digest, key, about=None, kind=SIGNS):
    """What Cosign 3 lets refer to the image, where the registry has no listing of its own for that."""
    subject = [{"digest": {"sha256": (about or digest).partition(":")[2]}}]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": kind,
        "predicate": {},
    }
    body, media_type = json.dumps(statement).encode(), "application/vnd.in-toto+json"
    message = f"DSSEv1 {len(media_type)} {media_type} {len(body)} ".encode() + body
    envelope = {
        "payload": base64.b64encode(body).decode(),
        "payloadType": media_type,
        "signatures": [{"sig": signature(key, message)}],
    }
    bundle = {"mediaType": BUNDLE.replace("+json", ";version=0.3"), "dsseEnvelope": envelope}
    artifact = server.put_artifact(NAME, "", EMPTY, {}, [(BUNDLE, json.dumps(bundle).encode(), {})])
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    size = len(server.files[f"/v2/{NAME}/manifests/{artifact}"])
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": manifest_type, "digest": artifact, "size": size, "artifactType": BUNDLE}],
    }
    server.put_manifest(NAME, digest.replace(":", "-"), index)


FORMS = pytest.mark.parametrize("sign", [sign_simply, sign_in_a_bundle])


@pytest.fixture(scope="module")
def key():
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def another():
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def image(server):
    return server.put_image(NAME, "1", b"a layer" * 100)


@pytest.fixture
def pull(server, tmp_path):
    archive = tmp_path / "pilot.tar"

    def pulled(*keys):
        copy_image(f"127.0.0.1:{server.port}/{NAME}:1", archive, [public(k) for k in keys], tls=False)
        return archive.is_file()

    yield pulled
    assert not list(tmp_path.glob("*.part"))


@FORMS
def test_an_image_with_its_projects_signature_comes_whichever_of_its_keys_that_is_by(
    server, image, pull, key, another, sign
):
    sign(server, image, key)
    assert pull(key)
    sign(server, image, another)
    assert pull(key, another)


def test_an_index_of_several_platforms_is_what_is_signed(server, image, pull, key):
    size = len(server.files[f"/v2/{NAME}/manifests/{image}"])
    platform = {"architecture": "amd64", "os": "linux"}
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifests = [{"mediaType": manifest_type, "digest": image, "size": size, "platform": platform}]
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    digest = server.put_manifest(NAME, "1", index)
    sign_simply(server, image, key)
    with pytest.raises(LabError, match="no signature"):
        pull(key)
    sign_simply(server, digest, key)
    assert pull(key)


def test_an_image_without_a_signature_does_not_come(image, pull, key, tmp_path):
    with pytest.raises(LabError, match="no signature in its registry is of sha256:") as refused:
        pull(key)
    assert "TESTBED_MIRROR" in refused.value.next_step
    assert not list(tmp_path.iterdir())


@FORMS
def test_a_signature_with_somebody_elses_key_is_none(server, image, pull, key, another, sign):
    sign(server, image, another)
    with pytest.raises(LabError, match="none of the 1 signatures"):
        pull(key)


@FORMS
def test_a_signature_of_something_else_is_none(server, image, pull, key, sign):
    sign(server, image, key, about="sha256:" + "0" * 64)
    with pytest.raises(LabError, match="none of the 1 signatures"):
        pull(key)


@FORMS
def test_an_attestation_is_no_signature(server, image, pull, key, sign):
    sign(server, image, key, kind="https://slsa.dev/provenance/v1")
    with pytest.raises(LabError, match="no signature"):
        pull(key)


@FORMS
def test_what_was_changed_after_it_was_signed_is_refused(server, image, pull, key, sign):
    other = server.put_image(NAME, "1", b"another layer")
    sign(server, other, key)
    server.put_image(NAME, "1", b"a layer" * 100)  # the tag names the first again, which nobody has signed
    with pytest.raises(LabError, match="no signature"):
        pull(key)
    for path, body in list(server.files.items()):
        if "/manifests/" + other.replace(":", "-") in path:  # the other one's signature, laid beside it
            server.files[path.replace(other.partition(":")[2], image.partition(":")[2])] = body
    with pytest.raises(LabError, match="none of the 1 signatures"):
        pull(key)


def test_a_key_that_is_none_is_the_catalogues_fault(server, image, pull, key):
    sign_simply(server, image, key)
    with pytest.raises(LabError, match="read its project's keys") as refused:
        pull(ed25519.Ed25519PrivateKey.generate())
    assert "releases.yaml" in refused.value.next_step


def test_the_keys_are_those_that_the_project_publishes(server, image, key, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module(Releases.__module__), "copy_image", partial(copy_image, tls=False))
    keys = (f"{server.url}/old.pub", f"{server.url}/new.pub")
    address = f"127.0.0.1:{server.port}/{NAME}:1"
    pilot = Artifact("istio", "1", "pilot.tar", address, "pilot.tar.sha256", is_image=True, keys=keys)
    fetch = partial(Releases().fetch, pilot, tmp_path / "pilot.tar", lambda *_: None)
    with pytest.raises(LabError, match="find its project's keys"):
        fetch()
    server.files["/new.pub"] = public(key).encode()
    with pytest.raises(LabError, match="check the image's signature"):
        fetch()
    sign_simply(server, image, key)
    fetch()
    assert (tmp_path / "pilot.tar").is_file()
