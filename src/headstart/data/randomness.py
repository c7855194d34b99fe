"""Random numbers that depend on (seed, epoch, sample) alone, so that a resumed run equals an unbroken one."""

import numpy as np
from numpy.typing import NDArray

_ORDER, _AUGMENT, _STEP, _MIX = range(4)


def epoch_order(*, seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """Return the order of ``n`` samples in an epoch, as a permutation of shape (n,)."""
    return _generator(seed, epoch, _ORDER).permutation(n)


def balanced_order(labels: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return as many samples as there are labels, shape (n,), in which every class is equally frequent, to within one.

    Samples of a rare class come several times, each as often as the others of its class to within one; of a frequent
    class each epoch shows other samples.
    """
    generator = _generator(seed, epoch, _ORDER)
    present = np.unique(labels)
    slots = generator.permutation(np.arange(len(labels)) % len(present))
    order = np.empty(len(labels), dtype=np.int64)
    for number, label in enumerate(present):
        members, places = np.flatnonzero(labels == label), np.flatnonzero(slots == number)
        rounds = [generator.permutation(members) for _ in range(-(-len(places) // len(members)))]
        order[places] = np.concatenate([*rounds, members])[: len(places)]
    return order


def sample_uniforms(*, seed: int, epoch: int, n: int, k: int) -> NDArray[np.float32]:
    """Return ``k`` uniform numbers in [0, 1) for each of ``n`` samples: shape (n, k). Row i belongs to sample i."""
    return _generator(seed, epoch, _AUGMENT).random((n, k), dtype=np.float32)


def step_seed(*, seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """Return the seed of whatever torch draws during one step of a process: dropout, stochastic depth."""
    # A rank of 0 is left out, so that a single process draws what it drew before there were several.
    return int(_generator(seed, epoch, _STEP, step, *filter(None, [rank])).integers(2**63))


def mixing_generator(*, seed: int, epoch: int, step: int, rank: int = 0) -> np.random.Generator:
    """Return what mixup and cutmix draw from in one step of a process."""
    return _generator(seed, epoch, _MIX, step, rank)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
