"""DropSliced and ShiftSliced: what MONAI's conventions ask for, around the functions themselves."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from pytc.data.augment import DropSliced, ShiftSliced, drop_slices, shift_slices
from pytc.data.counter_random import SampleRandom


def random_image(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1


def blank_axes(image):
    """The axes of the last three across which there is a blank slice."""
    volume = image.reshape(-1, *image.shape[-3:])
    blank = (volume == 0).all(0)
    return [axis for axis in range(3) if blank.movedim(axis, 0).flatten(1).all(1).any()]


def test_the_recipe_is_imported_without_monai():
    code = "import sys, pytc.data.augment as a; a.augment; print('monai' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "False", printed.stderr
    with pytest.raises(ImportError, match="cannot import name 'Dropsliced'"):
        from pytc.data.augment import Dropsliced  # noqa: F401


@pytest.mark.parametrize(
    "make", [partial(DropSliced, drop_prob=0.5), partial(ShiftSliced, shift_prob=0.5, max_shift=3)]
)
def test_they_repeat_by_their_random_state(make):
    image = random_image(2, 8, 9, 9)
    data = {"image": image, "grey": (image * 200).byte().numpy(), "other": 1}
    transform = make(["image", "grey"], prob=0.5)
    transform.set_random_state(seed=3)
    results = [transform(data) for _ in range(12)]
    transform.set_random_state(seed=3)
    for result in results:
        again = transform(data)
        assert torch.equal(again["image"], result["image"])
        assert isinstance(result["grey"], np.ndarray) and result["grey"].dtype == np.uint8
        assert result["other"] == 1
        # the same slices of all keys
        np.testing.assert_array_equal(result["grey"], (result["image"] * 200).byte())
    changed = [not torch.equal(result["image"], image) for result in results]
    assert 2 < sum(changed) < 11
    assert torch.equal(data["image"], random_image(2, 8, 9, 9))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_they_are_the_functions(axis):
    image = random_image(2, 8, 9, 9)
    drop = DropSliced("image", 1.0, 0.4, axis=axis)
    shift = ShiftSliced("image", 1.0, 0.4, 2, axis=axis)
    border = ShiftSliced("image", 1.0, 0.4, 2, axis=axis, fill="border")
    Compose([drop, shift, border]).set_random_state(seed=1)
    for transform, function, settings in (
        (drop, drop_slices, {"drop_prob": 0.4}),
        (shift, shift_slices, {"shift_prob": 0.4, "max_shift": 2, "fill": "wrap"}),
        (border, shift_slices, {"shift_prob": 0.4, "max_shift": 2, "fill": "border"}),
    ):
        made = transform({"image": image})["image"]
        rng = SampleRandom(transform.sample, type(transform).__name__)
        expected, _ = function(image[None], None, rng, axis=axis, **settings)
        assert torch.equal(made, expected[0]) and not torch.equal(made, image)


def test_the_axis_is_random_unless_it_is_named():
    image = random_image(1, 9, 9, 9)
    drop = DropSliced(["image"], 1.0, 0.4)
    drop.set_random_state(seed=0)
    found = [blank_axes(drop({"image": image})["image"]) for _ in range(90)]
    assert all(len(axes) <= 1 for axes in found)
    assert all(found.count([axis]) > 15 for axis in range(3))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_without_channels_is_damaged_as_one_with(axis):
    image = random_image(7, 8, 9)
    for transform in (
        DropSliced("image", 1.0, 0.4, axis=axis),
        ShiftSliced("image", 1.0, 0.9, 3, axis=axis),
    ):
        results = []
        for shape in ((7, 8, 9), (1, 7, 8, 9)):
            transform.set_random_state(seed=5)
            results.append(transform({"image": image.reshape(shape)})["image"])
        assert results[0].shape == (7, 8, 9) and results[1].shape == (1, 7, 8, 9)
        assert torch.equal(results[0], results[1][0]) and not torch.equal(results[0], image)
        if isinstance(transform, DropSliced):
            assert blank_axes(results[0]) == [axis]


def test_a_missing_key_is_an_error_unless_it_is_allowed():
    data = {"image": random_image(5, 5, 5)}
    for make in (
        partial(DropSliced, "label", 1.0, 0.5),
        partial(ShiftSliced, "label", 1.0, 0.5, 3),
    ):
        with pytest.raises(KeyError, match="label"):
            make()(data)
        assert make(True)(data) == data  # the last positional argument


@pytest.mark.parametrize("make", [DropSliced, ShiftSliced])
@pytest.mark.parametrize("shape", [(5, 5), (2, 1, 5, 5, 5)])
@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_other_shapes_are_refused(make, shape, prob):
    with pytest.raises(ValueError, match=r"'image' as \(C, D, H, W\) or \(D, H, W\), got"):
        make("image", prob)({"image": torch.zeros(shape)})


@pytest.mark.parametrize("axis", [3, -1, True, "thick"])
def test_other_axes_are_refused(axis):
    with pytest.raises(ValueError, match="axis 0, 1 or 2"):
        DropSliced("image", axis=axis)
