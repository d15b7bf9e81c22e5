import itertools

import numpy as np
import pytest

from pytc.geometry import Box, blocks, tile


@pytest.mark.parametrize(
    "shape, block", [((5, 7, 3), (2, 3, 4)), ((4, 4, 4), (4, 4, 4)), ((1, 9, 2), (1, 1, 1))]
)
def test_blocks_cover_every_voxel_once(shape, block):
    count = np.zeros(shape, int)
    for box in blocks(shape, block):
        assert all(n <= b for n, b in zip(box.shape, block))
        count[box.slices] += 1
    assert (count == 1).all()


@pytest.mark.parametrize(
    "n, window, stride", [(10, 4, 2), (10, 4, 3), (9, 4, 4), (4, 4, 1), (5, 4, 4), (17, 3, 2)]
)
def test_tile_covers_with_full_windows_snapped_to_the_edge(n, window, stride):
    boxes = tile((n,) * 3, (window,) * 3, (stride,) * 3)
    starts = sorted({box.start[0] for box in boxes})
    assert starts == sorted({*range(0, n - window + 1, stride), n - window})
    assert len(boxes) == len(starts) ** 3 == len(set(boxes))
    assert all(box.shape == (window,) * 3 and max(box.stop) <= n for box in boxes)
    count = np.zeros((n,) * 3, int)
    for box in boxes:
        count[box.slices] += 1
    assert count.min() >= 1


def test_tile_refuses_what_cannot_cover():
    with pytest.raises(ValueError, match="no larger than the volume"):
        tile((3, 8, 8), (4, 4, 4), (2, 2, 2))
    with pytest.raises(ValueError, match="strides between 1"):
        tile((8, 8, 8), (4, 4, 4), (5, 2, 2))


def test_box_arithmetic_equals_sets_of_voxels():
    def voxels(box):
        return (
            set(itertools.product(*(range(a, b) for a, b in zip(box.start, box.stop))))
            if box
            else set()
        )

    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (
            Box(tuple(s), tuple(s + n))
            for s, n in zip(rng.integers(0, 5, (2, 3)), rng.integers(1, 5, (2, 3)))
        )
        assert voxels(a.intersection(b)) == voxels(a) & voxels(b)
    assert Box((1, 2, 3), (4, 5, 6)).moved((-1, 0, 2)) == Box((0, 2, 5), (3, 5, 8))
