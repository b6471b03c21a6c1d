"""Random numbers by name: a generator's seed is the hash of a text, say of seed, iteration and number of the sample."""

from __future__ import annotations

import hashlib

import torch


def seed_of(key: str) -> int:
    """A seed of 63 bits; texts that differ at all give seeds that have nothing to do with each other."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_of(key: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator that depends on the key and on nothing else."""
    generator = torch.Generator(device=device)
    generator.manual_seed(seed_of(key))
    return generator
