"""The thresholds of a sweep: numbers, or a range as MIN:MAX:STEP. Standard library only."""

import math
from collections.abc import Iterable

# the thresholds of the BANIS baseline; pytc has no other list
DEFAULT_THRESHOLDS = tuple(1 / (1 + math.exp(-0.2 * k)) for k in range(-1, 12))


def parse_thresholds(words: Iterable[str | float]) -> tuple[float, ...]:
    """Thresholds from numbers and ranges, e.g. ("0.3", "0.5:0.9:0.1") -> (0.3, 0.5, ..., 0.9).

    A range MIN:MAX:STEP has MIN, MIN + STEP, and so on. MAX is in it if it is a whole number of
    steps from MIN. ValueError for a word that is neither, and for a threshold outside [0, 1].
    """
    found: list[float] = []
    for word in words:
        try:
            numbers = [float(part) for part in str(word).split(":")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            found.append(numbers[0])
        elif len(numbers) == 3 and numbers[2] > 0 and numbers[0] <= numbers[1]:
            found += threshold_range(*numbers)
        else:
            raise ValueError(f"expected a threshold, or MIN:MAX:STEP as 0.1:0.9:0.05, got {word!r}")
    if not all(0 <= threshold <= 1 for threshold in found):
        raise ValueError(f"expected thresholds in [0, 1], got {tuple(found)}")
    return tuple(found)


def threshold_range(low: float, high: float, step: float) -> list[float]:
    """low, low + step, ..., up to high; rounded to 12 decimals, as 0.1 + 2 x 0.1 is 0.3."""
    count = math.floor((high - low) / step + 1e-6) + 1
    return [round(low + step * n, 12) for n in range(count)]
