"""Key pairs for SSH: ed25519, made by us, so that a node's host key is known before its first boot."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)


@dataclass(frozen=True)
class KeyPair:
    """An SSH key: ``private`` in OpenSSH's format, ``public`` as one line ``ssh-ed25519 AAAA…``."""

    private: bytes
    public: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public})"


def key_pair(file: Path) -> KeyPair:
    """The key pair in ``file``, made (mode 0600, by rename) when there is none."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        private = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        part = file.with_suffix(f".{os.getpid()}.part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(private)
        part.rename(file)
    private = file.read_bytes()
    public = load_ssh_private_key(private, None).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return KeyPair(private, public.decode())
