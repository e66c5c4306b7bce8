"""What a fault says for itself: that it took hold, by a measurement of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Proof:
    """The control measurement of a fault on one machine."""

    held: bool
    words: str
    """What was measured, for people."""


def together(proofs: Iterable[tuple[str, Proof]]) -> Proof:
    """One proof of several machines': it holds when all do."""
    named = list(proofs)
    words = "; ".join(f"{node}: {proof.words}" for node, proof in named)
    return Proof(bool(named) and all(p.held for _, p in named), words or "nothing was measured")
