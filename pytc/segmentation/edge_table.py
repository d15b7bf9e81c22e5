"""The edges of a graph that changes: found by their two ends, and listed by one end.

A hash table (open addressing, linear probing, at most half full) finds the edge between two nodes.
Linked lists, made of arrays, hold what belongs to a node; an item is appended, and a list is moved
to another node item by item. All are plain arrays, so that compiled functions can share them:

    end_a, end_b  (E,)  the nodes of each edge
    slots         (2^k,) the index + 1 of an edge, or 0
    head, tail    (N,)  of a node's list the first and the last item, or -1
    following     (I,)  the next item of the same list, or -1
    length        (N,)  items in each list
"""

import numpy as np

from pytc.segmentation.compiled import compiled


@compiled
def append_item(
    fragment: int,
    item: int,
    head: np.ndarray,
    tail: np.ndarray,
    following: np.ndarray,
    degree: np.ndarray,
) -> None:
    """Puts an item at the end of a fragment's list of edges."""
    following[item] = -1
    if head[fragment] < 0:
        head[fragment] = item
    else:
        following[tail[fragment]] = item
    tail[fragment] = item
    degree[fragment] += 1


@compiled
def table_size(n_edges: int) -> int:
    size = 16
    while size < 2 * n_edges:
        size *= 2
    return size


@compiled
def _home(a: int, b: int, n_slots: int) -> int:
    """The slot at which the search for the edge between a and b begins."""
    low, high = np.uint64(min(a, b)), np.uint64(max(a, b))
    mixed = low * np.uint64(0x9E3779B97F4A7C15) ^ high * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(32)
    return np.int64(mixed & np.uint64(n_slots - 1))  # type: ignore[return-value]


@compiled
def _slot_of(a: int, b: int, end_a: np.ndarray, end_b: np.ndarray, slots: np.ndarray) -> int:
    """The slot of the edge between a and b, or the empty one where it belongs."""
    slot = _home(a, b, len(slots))
    while slots[slot] > 0:
        edge = slots[slot] - 1
        if (end_a[edge] == a and end_b[edge] == b) or (end_a[edge] == b and end_b[edge] == a):
            break
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@compiled
def edge_between(a: int, b: int, end_a: np.ndarray, end_b: np.ndarray, slots: np.ndarray) -> int:
    """The edge between a and b, or -1."""
    edge: int = slots[_slot_of(a, b, end_a, end_b, slots)] - 1
    return edge


@compiled
def insert_edge(edge: int, end_a: np.ndarray, end_b: np.ndarray, slots: np.ndarray) -> None:
    slots[_slot_of(end_a[edge], end_b[edge], end_a, end_b, slots)] = edge + 1


@compiled
def remove_edge(edge: int, end_a: np.ndarray, end_b: np.ndarray, slots: np.ndarray) -> None:
    """Takes an edge out of the table, and closes the gap (Knuth, TAOCP 3, 6.4, algorithm R)."""
    mask = len(slots) - 1
    gap = _slot_of(end_a[edge], end_b[edge], end_a, end_b, slots)
    slots[gap] = 0
    slot = (gap + 1) & mask
    while slots[slot] > 0:
        other = slots[slot] - 1
        home = _home(end_a[other], end_b[other], len(slots))
        # the entry may move back to the gap unless its home lies behind it
        if ((slot - home) & mask) >= ((slot - gap) & mask):
            slots[gap] = slots[slot]
            slots[slot] = 0
            gap = slot
        slot = (slot + 1) & mask
