"""Seeds of a run: pure functions of the recipe's seed and of where the run is, so that it can be resumed exactly."""

from __future__ import annotations

from hashlib import blake2b

STAGE_STRIDE = 1_000_003
"""Distance of the sampling seeds of two stages. Any other would change the photos that published recipes draw."""


def sampling_seed(seed: int, stage: int) -> int:
    """Return the seed from which the photos of stage number `stage` are drawn; the sampler hashes it."""
    return seed + STAGE_STRIDE * stage


def dropout_seed(seed: int, stage: int, iteration: int, rank: int) -> int:
    """Return the seed of dropout and stochastic depth in an iteration (from 0 in each stage) of a process.

    A hash, because a sum of multiples of the arguments would repeat masks in other iterations and processes.
    """
    key = f"dropout/{seed}/{stage}/{iteration}/{rank}"
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")
