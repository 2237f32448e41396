"""Randomness as a pure function of what it is for: never of order, batch, sharding or the clock."""

import hashlib
import json

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on ``parts`` alone, for example ``(seed, "subset", 17)``."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on ``device`` seeded with ``derive_seed(*parts)``."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))


def mix(z: Tensor) -> Tensor:
    """Apply the output function of SplitMix64 (Steele, Lea and Flood 2014) to int64 values, seen as unsigned."""
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def uniform(seed: int, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return uniform numbers in [0, 1), float32 of shape ``(n, *shape)``, row i from ``(seed, index[i])`` alone.

    A counter-based stream (SplitMix64) gives each sample its own randomness in one tensor expression, so that an
    attack's result does not depend on the batch a sample happens to be in. index: (n,) int64.
    """
    count = torch.Size(shape).numel()
    step = torch.arange(1, count + 1, device=index.device) * _GOLDEN
    key = mix(index * _GOLDEN + mix(torch.full_like(index, seed)))
    bits = _shift_right(mix(key[:, None] + step), 40)  # 24 bits: all that float32 holds exactly
    return (bits.float() * 2.0**-24).view(-1, *shape)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift right without the sign (torch's own shift of int64 copies the sign bit)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
