"""What an inventory names for private registries, read from where it is: certificates, keys and passwords."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from testbed.deploy.registries import RegistriesAccess, RegistryAccess
from testbed.documents import Path as DocumentPath
from testbed.documents import parse
from testbed.errors import BadInput, Problem
from testbed.host.directories import testbed_home
from testbed.model.inventory import Inventory, Registry, Secret
from testbed.workflows.loading import find_inventory, read_text


class _Unusable(Exception):
    """Why a file or variable can't be used, and what to do; never with its content."""

    def __init__(self, cause: str, next_step: str) -> None:
        super().__init__(cause)
        self.next_step = next_step


def registries_access(inventory: Inventory, file: str) -> RegistriesAccess:
    """The contents of everything that the registries of ``inventory`` (read from ``file``) name.

    Raises :class:`BadInput` with every problem found, located in the inventory: a file that is not there, a secret
    that others can read, a variable that is not set, what is no certificate, a key of another certificate.
    """
    access: dict[str, RegistryAccess] = {}
    problems: list[tuple[DocumentPath, _Unusable]] = []
    for name, registry in inventory.cluster.registries.items():
        where = ("cluster", "registries", name)
        found: dict[str, str] = {}
        for part, read in _parts(registry):
            try:
                found[part] = read()
            except _Unusable as e:
                problems.append(((*where, part), e))
        if {"certificate", "key"} <= set(found) and not _fits(found["certificate"], found["key"]):
            problems.append(((*where, "key"), _Unusable("the key is not the certificate's", "give that one's key")))
        access[name] = RegistryAccess(**found)
    if problems:
        raise BadInput(_located(file, problems))
    return access


def _located(file: str, problems: list[tuple[DocumentPath, _Unusable]]) -> list[Problem]:
    [document] = parse(read_text(find_inventory(file)), file)
    return sorted(
        (Problem(document.locate(path), str(e), e.next_step) for path, e in problems), key=lambda p: p.location
    )


def _parts(registry: Registry) -> Iterator[tuple[str, Callable[[], str]]]:
    if registry.ca is not None:
        yield "ca", partial(_certificates, registry.ca)
    if registry.certificate is not None:
        yield "certificate", partial(_certificates, registry.certificate)
    if registry.key is not None:
        yield "key", partial(_key, registry.key)
    if registry.password is not None:
        yield "password", partial(_password, registry.password)


def _content(name: str, *, secret: bool = False) -> str:
    path = Path(name).expanduser()
    path = path if path.exists() else testbed_home() / path
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise _Unusable(f"{name} is no file", "name a file")
        if secret and stat.S_IMODE(mode) & ~0o600:
            raise _Unusable(f"{name} has mode {stat.S_IMODE(mode):04o}: others can read it", f"chmod 600 {name}")
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise _Unusable(f"{name} cannot be read: {e.strerror}", "name a file that you can read") from None
    except UnicodeDecodeError:
        raise _Unusable(f"{name} is no text", "certificates and keys are wanted as PEM") from None


def _secret(place: Secret) -> str:
    if place.file is not None:
        return _content(place.file, secret=True)
    name = place.env or ""
    value = os.environ.get(name)
    if value is None:
        raise _Unusable(f"the environment variable {name} is not set", f"export {name}")
    return value


def _password(place: Secret) -> str:
    value = _secret(place).removesuffix("\n")
    if not value or not value.isprintable():
        raise _Unusable("the password is not one line of text", "write it alone into the file or variable")
    return value


def _certificates(name: str) -> str:
    text = _content(name)
    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise _Unusable(
            f"{name} has no certificate in PEM", "give a file that begins with BEGIN CERTIFICATE"
        ) from None
    return text


def _key(place: Secret) -> str:
    text = _secret(place)
    try:
        load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError):  # TypeError: it is encrypted, and a node has nobody who could be asked
        raise _Unusable("it is no private key in PEM without a passphrase", "give one") from None
    return text


def _fits(certificate: str, key: str) -> bool:
    own = x509.load_pem_x509_certificates(certificate.encode())[0].public_key()
    return load_pem_private_key(key.encode(), password=None).public_key() == own
