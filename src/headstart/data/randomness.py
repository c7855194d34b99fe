"""Random numbers that depend on (seed, epoch, sample) alone, so that a resumed run equals an unbroken one."""

import numpy as np
from numpy.typing import NDArray

_ORDER, _AUGMENT, _STEP = range(3)


def epoch_order(*, seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """Return the order of ``n`` samples in an epoch, as a permutation of shape (n,)."""
    return _generator(seed, epoch, _ORDER).permutation(n)


def sample_uniforms(*, seed: int, epoch: int, n: int, k: int) -> NDArray[np.float32]:
    """Return ``k`` uniform numbers in [0, 1) for each of ``n`` samples: shape (n, k). Row i belongs to sample i."""
    return _generator(seed, epoch, _AUGMENT).random((n, k), dtype=np.float32)


def step_seed(*, seed: int, epoch: int, step: int) -> int:
    """Return the seed of whatever a library draws during one step: dropout, mixup, cutmix."""
    return int(_generator(seed, epoch, _STEP, step).integers(2**63))


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
