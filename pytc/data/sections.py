"""Damaged sections: which planes of an image differ from those before and behind them."""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from scipy import ndimage

from pytc.config import Triple
from pytc.data.evidence import has_tissue
from pytc.data.sources import Source
from pytc.geometry import Box
from pytc.io.stores import Pages

SECTION_VOXELS = 2**23  # that are read to look at every section
WINDOWS = 3  # on a diagonal of each section
SMALLEST_WINDOW = 48  # voxels a side; smaller ones differ without any damage
MOST_SECTIONS = 4096
QUICK_PAGES = 2**28  # voxels of a stack that is decoded page by page, at training


class Section(NamedTuple):
    """A section that differs from its neighbours."""

    number: int
    damage: str  # blank, repeated, blurred, noisy, dark, bright, faint, uneven, shifted or a jump


def damaged_sections(source: Source, axis: int, *, patient: bool = False) -> list[Section]:
    """Sections across `axis` whose image differs from that of their neighbours, in their order.

    A stack of which whole pages must be decoded for a few voxels is left out if it is large, unless
    `patient`.
    """
    across = [length for each, length in enumerate(source.shape) if each != axis]
    is_slow = isinstance(source.image.handle, Pages) and math.prod(source.shape) > QUICK_PAGES
    if source.shape[axis] < 8 or min(across) < SMALLEST_WINDOW or (is_slow and not patient):
        return []
    windows = _columns(source, axis)
    if not windows:
        return []
    found = judge_sections(windows)
    return [Section(number, found[number]) for number in sorted(found)]


def _columns(source: Source, axis: int) -> list[np.ndarray]:
    """Windows of all sections, (sections, rows, columns) float32, on a diagonal of the section."""
    depth = min(source.shape[axis], MOST_SECTIONS)
    across = [each for each in range(3) if each != axis]
    side = int(min(256, max(SMALLEST_WINDOW, math.sqrt(SECTION_VOXELS / depth / WINDOWS))))
    columns = []
    for place in range(WINDOWS):
        start, stop = [0, 0, 0], [0, 0, 0]
        stop[axis] = depth
        for each in across:
            length = source.shape[each]
            size = min(side, length)
            start[each] = round((length - size) * (0.15 + 0.7 * place / (WINDOWS - 1)))
            stop[each] = start[each] + size
        box = Box(tuple(start), tuple(stop))
        image = source.read(cast(Triple, box.start), cast(Triple, box.stop))[0]
        if has_tissue(image):
            columns.append(np.moveaxis(image, axis, 0))
    return columns


def judge_sections(windows: Sequence[np.ndarray]) -> dict[int, str]:
    """What is wrong with each section that differs from what is usual around it.

    windows: (sections, rows, columns) float32, of the same sections.
    """
    mean = np.mean([window.mean((1, 2)) for window in windows], axis=0)
    spread = np.mean([window.std((1, 2)) for window in windows], axis=0)
    edges = np.mean([_edges(window) for window in windows], axis=0)
    sharpness = edges / np.maximum(spread, 1e-6)
    lighter = (mean - _usual(mean)) / np.maximum(_usual(spread), 1e-6)
    contrast = spread / np.maximum(_usual(spread), 1e-6)
    detail = sharpness / np.maximum(_usual(sharpness), 1e-6)
    step = edges / np.maximum(_usual(edges), 1e-6)
    equal = [(window[1:] == window[:-1]).all((1, 2)) for window in windows]
    looks = {
        "blank": contrast < 0.1,
        "repeated": np.append(False, np.all(equal, axis=0)),
        "blurred": detail < 0.6,
        "noisy": (step > 1.5) & (detail > 1.15),
        "dark": lighter < -1,
        "bright": lighter > 1,
        "faint": contrast < 0.5,
        "uneven": contrast > 2,
    }
    found: dict[int, str] = {}
    for name, flags in looks.items():
        for number in np.flatnonzero(flags).tolist():
            found.setdefault(number, name)
    return found | _moved(_resemblance(windows), found)


def _moved(next_to: np.ndarray, damaged: dict[int, str]) -> dict[int, str]:
    """Sections that do not lie where their neighbours do.

    next_to: the correlation of each section with the next. damaged: sections that look different,
    which resemble no neighbour anyway.
    """
    usual = _usual(next_to)
    spread = 1.48 * float(np.median(np.abs(next_to - usual)))
    unlike = (next_to < 0.6 * usual) & (next_to < usual - 5 * spread) & (usual > 0.15)

    def sides(number: int, left_out: dict[int, str]) -> list[bool]:
        """Whether a section is unlike the one before it and the one after it."""
        pairs = ((number - 1, number - 1), (number + 1, number))
        inside = [(other, pair) for other, pair in pairs if 0 <= other <= len(next_to)]
        return [bool(unlike[pair]) for other, pair in inside if other not in left_out]

    sections = [number for number in range(len(next_to) + 1) if number not in damaged]
    moved = {n: "shifted" for n in sections if sides(n, damaged) == [True, True]}
    known = damaged | moved
    lonely = {n: "shifted" for n in sections if n not in known and sides(n, known) == [True]}
    known |= lonely
    jumps = {
        n: "a jump"
        for n in sections
        if n not in known and n > 0 and n - 1 not in known and unlike[n - 1]
    }
    return moved | lonely | jumps


def _edges(window: np.ndarray) -> np.ndarray:
    """The mean step from a voxel to the next in each section, (sections,)."""
    steps = [np.abs(np.diff(window, axis=axis)).mean((1, 2)) for axis in (1, 2)]
    result: np.ndarray = steps[0] + steps[1]
    return result


def _resemblance(windows: Sequence[np.ndarray]) -> np.ndarray:
    """The correlation of each section with the next, (sections - 1,)."""
    values = []
    for window in windows:
        rows = window.reshape(len(window), -1)
        rows = rows - rows.mean(1, keepdims=True)
        length = np.sqrt(np.square(rows).sum(1)) + 1e-9
        values.append((rows[1:] * rows[:-1]).sum(1) / (length[1:] * length[:-1]))
    result: np.ndarray = np.mean(values, axis=0)
    return result


def _usual(values: np.ndarray) -> np.ndarray:
    """The median over the sections around each."""
    result: np.ndarray = ndimage.median_filter(values, 31, mode="nearest")
    return result
