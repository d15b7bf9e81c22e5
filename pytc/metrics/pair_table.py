"""Numbering and counting of sparse pairs of 64-bit ids, by a hash table.

The table has open addressing with linear probing, and is at most half full. A pair costs O(1).

    slots        .  2  .  .  1  3  .  .      number + 1 of the pair that lies here, or 0
    ids_first    a  b  c                     by number: the pair (a, x) was counted 4 times
    ids_second   x  y  z
    counts       4  7  1
"""

from typing import NamedTuple

import numba
import numpy as np

FIRST_CAPACITY = 512  # pairs before the table grows


class PairTable(NamedTuple):
    """The pairs so far; entries of the columns from n_pairs on mean nothing."""

    slots: np.ndarray  # (2^k,) int64: number + 1 of a pair, or 0
    ids_first: np.ndarray  # uint64
    ids_second: np.ndarray  # uint64
    counts: np.ndarray  # int64
    n_pairs: int


def empty_table() -> PairTable:
    """The state of `add_pairs` before the first pair."""
    return PairTable(
        np.zeros(2 * FIRST_CAPACITY, np.int64),
        np.empty(FIRST_CAPACITY, np.uint64),
        np.empty(FIRST_CAPACITY, np.uint64),
        np.zeros(FIRST_CAPACITY, np.int64),
        0,
    )


def number_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers ids in order of appearance.

    Args:
        ids: (n,) uint64.

    Returns:
        The number of each, (n,) int64, and the distinct ids by number, uint64.
    """
    numbers = np.empty(len(ids), np.int64)
    once = np.empty(0, np.int64)
    table = add_pairs(ids, np.zeros_like(ids), once, numbers, empty_table())
    return numbers, table.ids_first[: table.n_pairs]


def add_pairs(
    first: np.ndarray,
    second: np.ndarray,
    times: np.ndarray,
    numbers: np.ndarray,
    table: PairTable,
) -> PairTable:
    """Count the pairs (first[i], second[i]).

    Args:
        first, second: (n,) uint64.
        times: (n,) int64, how often each pair counts, or empty: once.
        numbers: (n,) int64, receives the number of each pair in order of appearance, or empty.
        table: the pairs so far; overwritten.

    Returns:
        The table with these pairs.
    """
    slots, ids_first, ids_second, counts, n_pairs = table
    done = 0
    while True:
        done, n_pairs = _add_until_full(
            first, second, times, numbers, done, slots, ids_first, ids_second, counts, n_pairs
        )
        if done == len(first):
            return PairTable(slots, ids_first, ids_second, counts, n_pairs)
        slots = np.zeros(2 * len(slots), np.int64)
        ids_first = np.resize(ids_first, 2 * n_pairs)
        ids_second = np.resize(ids_second, 2 * n_pairs)
        counts = np.resize(counts, 2 * n_pairs)
        counts[n_pairs:] = 0
        _fill_slots(slots, ids_first, ids_second, n_pairs)


@numba.njit(cache=True, nogil=True)
def _add_until_full(
    first: np.ndarray,
    second: np.ndarray,
    times: np.ndarray,
    numbers: np.ndarray,
    done: int,
    slots: np.ndarray,
    ids_first: np.ndarray,
    ids_second: np.ndarray,
    counts: np.ndarray,
    n_pairs: int,
) -> tuple[int, int]:
    """Count pairs from index `done` on; returns how many are done, and how many are distinct."""
    number = -1
    for i in range(done, len(first)):
        # a pair often equals the one before, and needs no look-up then
        if number < 0 or first[i] != ids_first[number] or second[i] != ids_second[number]:
            slot = _find_slot(first[i], second[i], slots, ids_first, ids_second)
            number = slots[slot] - 1
            if number < 0:
                if n_pairs == len(counts):
                    return i, n_pairs
                number = n_pairs
                n_pairs += 1
                slots[slot] = n_pairs
                ids_first[number] = first[i]
                ids_second[number] = second[i]
        counts[number] += times[i] if len(times) else 1
        if len(numbers):
            numbers[i] = number
    return len(first), n_pairs


@numba.njit(cache=True, nogil=True)
def _find_slot(
    a: np.uint64, b: np.uint64, slots: np.ndarray, ids_first: np.ndarray, ids_second: np.ndarray
) -> np.int64:
    """The slot that holds the number + 1 of the pair (a, b), or 0 where it belongs."""
    code = a * np.uint64(0x9E3779B97F4A7C15) ^ (b + np.uint64(0x7F4A7C15)) * np.uint64(
        0xC2B2AE3D27D4EB4F
    )
    slot = np.int64((code ^ (code >> np.uint64(32))) & np.uint64(len(slots) - 1))
    while slots[slot] and (ids_first[slots[slot] - 1] != a or ids_second[slots[slot] - 1] != b):
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@numba.njit(cache=True, nogil=True)
def _fill_slots(
    slots: np.ndarray, ids_first: np.ndarray, ids_second: np.ndarray, n_pairs: int
) -> None:
    for number in range(n_pairs):
        slots[_find_slot(ids_first[number], ids_second[number], slots, ids_first, ids_second)] = (
            number + 1
        )
