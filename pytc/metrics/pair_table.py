"""Numbering and counting of sparse pairs of 64-bit ids, by a hash table.

The table has open addressing, and is at most half full.
"""

import numba
import numpy as np


def empty_table() -> tuple:
    """State of `add_pairs` before the first pair.

    Slots, ids of the first and second kind, counts, pairs so far.
    """
    return (
        np.zeros(1024, np.int64),
        np.empty(512, np.uint64),
        np.empty(512, np.uint64),
        np.zeros(512, np.int64),
        0,
    )


def number_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) uint64 as numbers from 0 in order of appearance, and the distinct ids.

    The numbers are int64 (n,), the distinct ids uint64.
    """
    codes = np.empty(len(ids), np.int64)
    _, distinct, _, _, known = add_pairs(
        ids, np.zeros_like(ids), np.empty(0, np.int64), codes, *empty_table()
    )
    return codes, distinct[:known]


def add_pairs(first, second, times, codes, slots, ids_first, ids_second, counts, known) -> tuple:
    """Count the pairs (first[i], second[i]), both (n,) uint64; returns the new state.

    times: int64 (n,), how often each counts, or empty: once. codes: int64 (n,) to receive the
    number of each pair in order of appearance, or empty.
    """
    done = 0
    while True:
        done, known = _add_until_full(
            first, second, times, codes, done, slots, ids_first, ids_second, counts, known
        )
        if done == len(first):
            return slots, ids_first, ids_second, counts, known
        slots = np.zeros(2 * len(slots), np.int64)
        ids_first, ids_second, counts = (
            np.resize(column, 2 * known) for column in (ids_first, ids_second, counts)
        )
        counts[known:] = 0
        _fill_slots(slots, ids_first, ids_second, known)


@numba.njit(cache=True, nogil=True)
def _add_until_full(first, second, times, codes, done, slots, ids_first, ids_second, counts, known):
    number = -1
    for i in range(done, len(first)):
        if number < 0 or first[i] != ids_first[number] or second[i] != ids_second[number]:
            slot = _find_slot(first[i], second[i], slots, ids_first, ids_second)
            number = slots[slot] - 1
            if number < 0:
                if known == len(counts):
                    return i, known
                number = known
                known += 1
                slots[slot] = known
                ids_first[number], ids_second[number] = first[i], second[i]
        counts[number] += times[i] if len(times) else 1
        if len(codes):
            codes[i] = number
    return len(first), known


@numba.njit(cache=True, nogil=True)
def _find_slot(a, b, slots, ids_first, ids_second):
    """The slot that holds the number + 1 of the pair (a, b), or 0 where it belongs."""
    code = a * np.uint64(0x9E3779B97F4A7C15) ^ (b + np.uint64(0x7F4A7C15)) * np.uint64(
        0xC2B2AE3D27D4EB4F
    )
    slot = np.int64((code ^ (code >> np.uint64(32))) & np.uint64(len(slots) - 1))
    while slots[slot] and (ids_first[slots[slot] - 1] != a or ids_second[slots[slot] - 1] != b):
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@numba.njit(cache=True, nogil=True)
def _fill_slots(slots, ids_first, ids_second, known):
    for number in range(known):
        slots[_find_slot(ids_first[number], ids_second[number], slots, ids_first, ids_second)] = (
            number + 1
        )
