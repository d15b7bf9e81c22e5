"""MONAI dictionary transforms over the slice damage of imaging.py, with MONAI's randomisation."""

from functools import partial

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, convert_to_tensor

from pytc.data.augment.imaging import drop_slices, shift_slices
from pytc.data.counter_random import SampleRandom


class SliceTransform(RandomizableTransform, MapTransform):
    """Damages slices of arrays or tensors (C, Z, Y, X) at `keys`, all in the same way."""

    def __init__(self, damage, keys: KeysCollection, prob: float, allow_missing_keys: bool):
        RandomizableTransform.__init__(self, prob)
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.damage = damage

    def __call__(self, data: dict) -> dict:
        result = dict(data)
        self.randomize(None)
        self.sample = torch.tensor([self.R.randint(2**63 - 1, dtype=np.int64)])
        for key in self.key_iterator(result) if self._do_transform else ():
            image = convert_to_tensor(result[key], track_meta=False)[None]
            damaged, _ = self.damage(image, None, SampleRandom(self.sample, type(self).__name__))
            result[key], *_ = convert_to_dst_type(damaged[0], result[key])
        return result


class DropSliced(SliceTransform):
    """Blanks each slice across `axis` with probability `drop_prob`."""

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.5,
        drop_prob: float = 0.05,
        axis: int = 0,
        allow_missing_keys: bool = False,
    ):
        super().__init__(
            partial(drop_slices, drop_prob=drop_prob, axis=axis), keys, prob, allow_missing_keys
        )


class ShiftSliced(SliceTransform):
    """Shifts each slice across `axis`, with probability `shift_prob`, as `shift_slices` does."""

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.5,
        shift_prob: float = 0.05,
        max_shift: int = 10,
        axis: int = 0,
        fill: str = "border",
        allow_missing_keys: bool = False,
    ):
        damage = partial(
            shift_slices, shift_prob=shift_prob, max_shift=max_shift, axis=axis, fill=fill
        )
        super().__init__(damage, keys, prob, allow_missing_keys)
