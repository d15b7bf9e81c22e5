"""Random numbers as a function of (key, stream, counter), without hidden state.

Every number follows from the key of a sample and the name of the augmentation that draws it. It
does not depend on the other samples of the batch, on the device, or on the other augmentations. The
generator is splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
generators, 2014) in wrapping int64 arithmetic.
"""

from __future__ import annotations

import functools
import hashlib
import math

import torch

# The constants of splitmix64, as signed 64-bit integers.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def sample_key(seed: int, step: int, index: int) -> int:
    """The key of a sample, as a signed 64-bit integer: a hash of (seed, step, index)."""
    key = torch.zeros((), dtype=torch.int64)
    for number in (seed, step, index):
        key = _mix(key + number + GAMMA)
    return int(key.item())


def shuffled(index: int, size: int, name: str) -> int:
    """The new position of `index` after 0 .. size - 1 were shuffled; `name` fixes the order.

    A Feistel network of four rounds permutes all numbers of the same number of bits. A result of
    `size` or more goes through it again. So no table is needed, however large the size is. Source:
    Black and Rogaway, "Ciphers with arbitrary finite domains" (2002).
    """
    half = ((size - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            text = f"{name} {turn} {right}".encode()
            digest = hashlib.blake2b(text, digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        index = left << half | right
        if index < size:
            return index


class SampleRandom:
    """Draws random numbers for a batch, a row for each sample.

    Row i follows from keys[i], the name of the stream, and the number of calls before. Results are
    on the CPU unless a device is named, so that a decision never waits for a GPU. The numbers are
    the same on every device, bit for bit.

    Args:
        keys: integer tensor (B,), from `sample_key`.
        stream: another name gives other numbers.
    """

    def __init__(self, keys: torch.Tensor, stream: str):
        digest = hashlib.blake2b(stream.encode(), digest_size=8).digest()
        self.state = _mix(
            keys.to("cpu", torch.int64) ^ int.from_bytes(digest, "little", signed=True)
        )
        self.counter = 0

    def rows(self, rows: list[int] | torch.Tensor) -> SampleRandom:
        """Draws the same numbers from now on, for some of the rows only."""
        part = object.__new__(SampleRandom)
        part.state, part.counter = self.state[rows], self.counter
        return part

    def uniform(
        self, *shape: int, low: float = 0.0, high: float = 1.0, device: str | torch.device = "cpu"
    ):
        """Uniform in [low, high), in steps of 2^-24 of the range: float32 (B, *shape)."""
        unit = _shift(self._bits(math.prod(shape), device), 40).to(torch.float32) * 2.0**-24
        return (unit * (high - low) + low).view(-1, *shape)

    def integers(self, low: int, high: int, *shape: int) -> torch.Tensor:
        """Uniform among low, ..., high - 1, fewer than 2^31 numbers: int64 (B, *shape)."""
        bits = self._bits(math.prod(shape), "cpu")
        return (_shift(_shift(bits, 33) * (high - low), 31) + low).view(-1, *shape)

    def bernoulli(self, probability: float, *shape: int) -> torch.Tensor:
        """True with the given probability: bool (B, *shape)."""
        return self.uniform(*shape) < probability

    def normal(self, *shape: int, device: str | torch.device = "cpu") -> torch.Tensor:
        """Standard normal: float32 (B, *shape).

        A number is one of 65,536 equally likely quantiles, so its magnitude is at most 4.3.
        """
        size = math.prod(shape)
        bits = self._bits(-(-size // 4), device)
        quantile = bits.view(torch.int16)[:, :size].to(torch.int32) + 2**15
        return (
            _normal_quantiles(torch.device(device))
            .index_select(0, quantile.view(-1))
            .view(-1, *shape)
        )

    def _bits(self, count: int, device: str | torch.device) -> torch.Tensor:
        """The next `count` hashes of each row: int64 (B, count)."""
        counters = torch.arange(self.counter + 1, self.counter + count + 1, device=device)
        self.counter += count
        return _mix(self.state.to(device)[:, None] + counters * GAMMA)


def _shift(bits: torch.Tensor, count: int) -> torch.Tensor:
    """Logical shift to the right; the >> of torch copies the sign bit."""
    return (bits >> count) & ((1 << 64 - count) - 1)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """The finaliser of splitmix64."""
    for shift, multiplier in zip((30, 27), MULTIPLIERS):
        bits = (bits ^ _shift(bits, shift)) * multiplier
    return bits ^ _shift(bits, 31)


@functools.cache
def _normal_quantiles(device: torch.device) -> torch.Tensor:
    """Quantiles (i + 1/2) / 65536 of the standard normal, float32 (65536,)."""
    middles = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    return torch.special.ndtri(middles).to(torch.float32).to(device)
