"""Weighted consistent hashing: in which order nodes come for a partition; pure, and in integers alone.

Rendezvous hashing (Thaler & Ravishankar 1998), weighted as by Schindelhauer & Schomaker 2005: each node
draws -log(u) / weight from a hash of itself and the partition, and the least goes first. A node that comes or
goes changes nobody else's draw, so no partition moves between two nodes that stay. The logarithm is computed
in fixed point: every node of the cluster has to get the same order.
"""

from collections.abc import Mapping
from typing import Final

from blake3 import blake3

_HASH_BITS: Final = 64
_FRACTION_BITS: Final = 20  # of the logarithm: draws that agree in them are put in order by node id
_MANTISSA_BITS: Final = 32
_WEIGHT_SHIFT: Final = 32  # what a draw is raised by before it is divided by the weight


def draws(partition: int, weights: Mapping[bytes, int]) -> dict[bytes, int]:
    """Each node's draw for this partition; the least goes first."""
    place = partition.to_bytes(2, "big")
    return {
        node: (_minus_log2(blake3(place + node).digest(length=8)) << _WEIGHT_SHIFT) // weight
        for node, weight in weights.items()
    }


def order(drawn: Mapping[bytes, int]) -> list[bytes]:
    return sorted(drawn, key=lambda node: (drawn[node], node))


def _minus_log2(digest: bytes) -> int:
    """-log2 of the digest as a fraction of one, with `_FRACTION_BITS`, by squaring bit for bit."""
    value = int.from_bytes(digest, "big") or 1
    whole = value.bit_length() - 1
    shift = whole - (_MANTISSA_BITS - 1)
    mantissa = value >> shift if shift >= 0 else value << -shift
    log = whole
    for _ in range(_FRACTION_BITS):
        mantissa = (mantissa * mantissa) >> (_MANTISSA_BITS - 1)
        log <<= 1
        if mantissa >> _MANTISSA_BITS:
            mantissa >>= 1
            log |= 1
    return (_HASH_BITS << _FRACTION_BITS) - log
