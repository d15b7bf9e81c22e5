"""MONAI dictionary transforms that damage slices as `imaging` does, randomised as MONAI's are."""

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, convert_to_tensor

from pytc.checks import require
from pytc.data.augment.imaging import drop_slices, shift_slices
from pytc.data.counter_random import SampleRandom


class SliceTransform(RandomizableTransform, MapTransform):
    """Damages slices of the arrays or tensors at `keys`, all in the same way, and returns copies.

    Args:
        damage: of `imaging`, with its strengths.
        keys: of images (C, D, H, W) or (D, H, W); ValueError for other shapes.
        prob: probability that anything is done.
        allow_missing_keys: whether a key may be missing.
        axis: across which the slices lie: 0, 1 or 2 of D, H, W; None: a random one each time.
    """

    def __init__(
        self,
        damage: Callable,
        keys: KeysCollection,
        prob: float,
        allow_missing_keys: bool,
        axis: int | None,
    ):
        RandomizableTransform.__init__(self, prob)
        MapTransform.__init__(self, keys, allow_missing_keys)
        is_valid = axis is None or (axis in (0, 1, 2) and not isinstance(axis, bool))
        require(is_valid, "axis 0, 1 or 2 (of D, H, W), or None for a random one", axis)
        self.damage = damage
        self.axis = axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        self.randomize(None)
        self.sample = torch.tensor([self.R.randint(2**63 - 1, dtype=np.int64)])
        images = {key: result[key] for key in self.key_iterator(result)}
        for key, image in images.items():
            shape = tuple(image.shape)
            require(len(shape) in (3, 4), f"{key!r} as (C, D, H, W) or (D, H, W)", shape)
        if self._do_transform:
            for key, image in images.items():
                result[key] = self._damaged(image)
        return result

    def __repr__(self) -> str:
        settings = {"keys": self.keys, "prob": self.prob, "axis": self.axis}
        if isinstance(self.damage, partial):
            settings |= self.damage.keywords
        shown = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        return f"{type(self).__name__}({shown})"

    def _damaged(self, image: Any) -> Any:
        axis = self.axis
        if axis is None:
            axis = int(SampleRandom(self.sample, "slices_axis").integers(0, 3).item())
        whole = convert_to_tensor(image, track_meta=False)
        channels = whole if whole.ndim == 4 else whole[None]
        rng = SampleRandom(self.sample, type(self).__name__)
        damaged, _ = self.damage(channels[None], None, rng, axis=axis)
        return convert_to_dst_type(damaged[0].reshape(whole.shape), image)[0]


class DropSliced(SliceTransform):
    """Blanks (sets to 0) each slice across an axis with probability `drop_prob`."""

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.5,
        drop_prob: float = 0.05,
        allow_missing_keys: bool = False,
        *,
        axis: int | None = None,
    ):
        damage = partial(drop_slices, drop_prob=drop_prob)
        super().__init__(damage, keys, prob, allow_missing_keys, axis)


class ShiftSliced(SliceTransform):
    """Shifts each slice across an axis, with probability `shift_prob`, as `shift_slices` does.

    What leaves a slice comes in again at its opposite side; fill="border" repeats its border
    voxels instead.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.5,
        shift_prob: float = 0.05,
        max_shift: int = 10,
        allow_missing_keys: bool = False,
        *,
        axis: int | None = None,
        fill: Literal["border", "wrap"] = "wrap",
    ):
        damage = partial(shift_slices, shift_prob=shift_prob, max_shift=max_shift, fill=fill)
        super().__init__(damage, keys, prob, allow_missing_keys, axis)
