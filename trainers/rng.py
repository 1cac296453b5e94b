"""Random numbers that are a pure function of what they are for, and of nothing that was drawn before.

Owns every seed of a run. A number depends on the run's seed, the epoch, the image, the view and its place in the list
of draws; never on the number of processes, of loading workers, or on where a run was interrupted. Nothing random
therefore needs to be saved in a checkpoint. The functions are integer arithmetic and SHA-256, so their values hold on
every platform and for ever (golden tests); the streams of numpy and torch carry no such promise.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# SplitMix64 (Steele, Lea and Flood 2014): a Weyl sequence with this increment, scrambled by `_mix`.
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)


def derive(seed: int, *names: int | str) -> int:
    """A seed of its own, in [0, 2**63), for the purpose that ``names`` spell out, such as ``("queue",)``.

    Different names give independent seeds; 1 and "1" are different names.
    """
    text = json.dumps([seed, *names], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def permutation(seed: int, length: int) -> npt.NDArray[np.int64]:
    """The numbers 0 … length - 1 in a random order."""
    return np.argsort(_sequence(seed, np.arange(length, dtype=np.int64)), kind="stable")


def epoch_permutation(seed: int, epoch: int, length: int) -> npt.NDArray[np.int64]:
    """The order in which an epoch of the run with this seed visits its ``length`` training images."""
    return permutation(derive(seed, "epoch", epoch), length)


@dataclass(frozen=True)
class Stream:
    """A sequence of random numbers for each sample of a batch; any part of it can be had at any time.

    Attributes:
        keys: (n,), one sequence each.
    """

    keys: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, seed: int, epoch: int, view: int, indices: npt.NDArray[np.int64]) -> Stream:
        """The sequences of one view of the images with these numbers in the data set, (n,)."""
        return cls(_sequence(derive(seed, "view", epoch, view), indices))

    @classmethod
    def shared(cls, seed: int, epoch: int, view: int, step: int, count: int) -> Stream:
        """One sequence for all of ``count`` images: that of this view in this step of the epoch."""
        (key,) = _sequence(derive(seed, "view", epoch, view, "step"), np.array([step]))
        return cls(np.full(count, key))

    def rows(self, chosen: npt.NDArray[np.int64]) -> Stream:
        """The sequences of some of the samples."""
        return Stream(self.keys[chosen])

    def uniform(self, first: int, count: int) -> npt.NDArray[np.float64]:
        """Draws number ``first`` … ``first + count - 1`` of each sample, (n, count), uniform in [0, 1)."""
        places = np.arange(first + 1, first + count + 1, dtype=np.uint64) * _INCREMENT
        bits = _mix(self.keys[:, None] + places)
        return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _sequence(seed: int, places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The numbers at these places of the SplitMix64 sequence that starts at ``seed``."""
    return _mix(np.full(places.shape, seed, np.uint64) + (places.astype(np.uint64) + np.uint64(1)) * _INCREMENT)


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64 bits, one to one (the finaliser of SplitMix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
