"""Parts of a prediction: regions, tissue, constant blocks, sums carried over, memory that ends."""

import numpy as np
import pytest
import torch
from small_predictions import make_image, network, predict
from small_volumes import written

from pytc.geometry import Box
from pytc.inference.blending import Grid, Sums
from pytc.inference.output import Plan, choose_block, manifest_of, stored_plan
from pytc.inference.reading import layers_of
from pytc.inference.shards import Shard
from pytc.inference.tissue import blocks_without_tissue
from pytc.io.volume import chunks_of_blocks, open_volume
from pytc.script import RunError

BLOCK = (8, 13, 12)


@pytest.fixture
def image(tmp_path):
    return make_image(tmp_path / "image.zarr")


def stored(path, array, voxel_size=None):
    written(path, array, voxel_size=voxel_size)
    return open_volume(path)


def part(image, output, net=network, settings=None, **arguments):
    return predict(image, output, net, arguments=arguments, **{"block": BLOCK, **(settings or {})})


@pytest.mark.parametrize("block", [BLOCK, (19, 26, 23), (3, 50, 5), (20, 4, 30)])
def test_blocks_do_not_change_a_bit(image, tmp_path, block):
    whole = predict(image, tmp_path / "whole.zarr")[...]
    np.testing.assert_array_equal(predict(image, tmp_path / "out.zarr", block=block)[...], whole)


def test_each_window_of_a_column_is_predicted_once(image, tmp_path):
    grid = Grid(image.shape, (8, 10, 12), (4, 5, 6))
    plan = Plan(Box((0, 0, 0), image.shape), (4, 26, 23))
    layers = [
        start
        for number, box in enumerate(plan.boxes)
        for start in layers_of(grid, box, goes_on=number > 0)
    ]
    assert layers == [0, 4, 8, 11]
    seen = []

    def counted(x):
        seen.append(len(x))
        return network(x)

    predict(image, tmp_path / "out.zarr", net=counted, block=(4, 26, 23))
    assert sum(seen) == sum(len(grid.layer(start, plan.boxes[0])) for start in layers)


def test_a_region_is_that_of_the_whole(image, tmp_path):
    whole = predict(image, tmp_path / "whole.zarr")[...]
    region = Box((3, 5, 2), (17, 20, 23))
    made = part(image, tmp_path / "out.zarr", region=region)
    assert made.shape == (2, 14, 15, 21) and made.attributes["voxel_offset"] == [3, 5, 2]
    np.testing.assert_array_equal(made[...], whole[region.channel_slices])


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_blocks_without_tissue_are_0(image, tmp_path, scale):
    """The mask is of the image's voxels, or of larger ones that reach over its end."""
    whole = predict(image, tmp_path / "whole.zarr")[...]
    fine = np.zeros((20, 28, 24), bool)
    fine[9, 14, 13] = True
    coarse = fine.reshape(20 // scale, scale, 28 // scale, scale, 24 // scale, scale).any((1, 3, 5))
    if scale == 1:
        coarse = coarse[:19, :26, :23]
    mask = stored(tmp_path / "mask.zarr", coarse, (40 * scale, 4 * scale, 4 * scale))
    made = part(image, tmp_path / "out.zarr", tissue=mask)[...]
    inside = np.zeros(image.shape, bool)
    voxels = np.kron(coarse, np.ones((scale,) * 3, bool))[:19, :26, :23]
    for box in Plan(Box((0, 0, 0), image.shape), BLOCK).boxes:
        inside[box.slices] = voxels[box.slices].any()
    assert 0 < inside.mean() < 1
    np.testing.assert_array_equal(made, np.where(inside, whole, 0))


def test_a_mask_that_does_not_cover_the_image_is_refused(image, tmp_path):
    half = np.zeros((19, 26, 11), bool)
    for name, size, message in (
        ("a", None, "voxel sizes of mask and image"),
        ("b", (40, 4, 4), r"covers the image of \(19, 26, 23\) voxels, got 'one that covers"),
    ):
        mask = stored(tmp_path / f"{name}.zarr", half, size)
        with pytest.raises(ValueError, match=message):
            blocks_without_tissue(mask, image, [])


def test_blocks_that_are_constant_with_their_halo_are_0(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 256, (40, 20, 24), dtype=np.uint8)
    pixels[:30] = 7
    image = stored(tmp_path / "image.zarr", pixels)
    made = part(image, tmp_path / "out.zarr", settings={"block": (8, 20, 24)})
    # windows that touch planes 16 to 24 reach up to plane 28
    assert not made[:, :24].any() and made[:, 24:].all()
    assert manifest_of(tmp_path / "out.zarr").finished() == set(range(5))
    again = part(image, tmp_path / "one.zarr", settings={"block": (40, 20, 24)})
    np.testing.assert_array_equal(again[:, 24:], made[:, 24:])


def test_a_block_below_tissue_is_predicted(tmp_path):
    """Windows that start above it see the tissue, though those that start in it do not."""
    pixels = np.random.default_rng(0).integers(1, 256, (40, 20, 24), dtype=np.uint8)
    pixels[14:] = 7
    image = stored(tmp_path / "image.zarr", pixels)
    made = part(image, tmp_path / "out.zarr", settings={"block": (8, 20, 24)})
    whole = part(image, tmp_path / "one.zarr", settings={"block": (40, 20, 24)})
    # the last window that sees plane 13 starts at 12, and ends above plane 20
    np.testing.assert_array_equal(made[:, :24], whole[:, :24])
    assert made[:, 16:24].all() and not made[:, 24:].any()


@pytest.mark.parametrize("count", [2, 3, 20])
def test_shards_make_the_whole(image, tmp_path, count):
    whole = part(image, tmp_path / "whole.zarr")[...]
    for number in range(count):
        made = part(image, tmp_path / "out.zarr", shard=Shard(number, count))
    np.testing.assert_array_equal(made[...], whole)


def test_smaller_batches_where_memory_ends(image, tmp_path, caplog):
    sizes = []

    def limited(x):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("simulated")
        return network(x)

    made = part(image, tmp_path / "out.zarr", net=limited, settings={"batch_size": 9})
    whole = part(image, tmp_path / "whole.zarr", settings={"batch_size": 9})
    np.testing.assert_array_equal(made[...], whole[...])
    assert sizes[:3] == [9, 4, 2] and set(sizes[3:]) <= {1, 2}
    assert "going on with 2 windows (--inference.batch-size 2)" in caplog.text


def test_sums_that_do_not_fit_on_the_device_are_made_on_the_cpu(
    image, tmp_path, monkeypatch, caplog
):
    whole = part(image, tmp_path / "whole.zarr")[...]
    begin, failed = Sums.begin, []

    def limited(self, box, *, goes_on):
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("simulated")
        begin(self, box, goes_on=goes_on)

    monkeypatch.setattr(Sums, "begin", limited)
    np.testing.assert_array_equal(part(image, tmp_path / "out.zarr")[...], whole)
    assert "blending on the CPU" in caplog.text


@pytest.mark.parametrize("available", [10**7, 10**8, 10**9, 10**11])
def test_a_block_is_as_wide_as_memory_allows(available):
    shape, window, stride = (1000, 3000, 2000), (64, 64, 64), (32, 32, 32)
    block = choose_block(shape, window, stride, (1, 6), available)
    planes, width = block[0] + window[0], block[1] * block[2]
    sums = 6 * 4 * planes * width
    assert all(length % 64 == 0 for length in block)
    assert sums < available or block == (64, 64, 64)
    assert sums > available / 6 or block[1] >= 3000


def test_many_processes_have_blocks_to_share():
    shape, window, stride = (128, 2000, 2000), (64, 64, 64), (32, 32, 32)
    for processes, least in ((1, 2), (8, 16), (100, 200)):
        block = choose_block(shape, window, stride, (1, 6), 10**12, processes)
        assert least <= len(Plan(Box((0, 0, 0), shape), block).boxes) <= 2 * least


def test_chunks_divide_a_block():
    lengths = {64: 64, 512: 64, 500: 50, 7: 7, 96: 48, 67: 67, 200: 50}
    assert {block: chunks_of_blocks((block,), (1000,))[0] for block in lengths} == lengths
    assert chunks_of_blocks((500, 500), (300, 30)) == (64, 30)


def fail_at_reads(image, monkeypatch, fails):
    """Reads of the image fail where `fails` (number of the read, its first plane) is true."""
    reads = []

    def read(start, stop):
        reads.append(start)
        if fails(len(reads) - 1, start[0]):
            raise OSError("the server is away")
        return type(image).read(image, start, stop)

    monkeypatch.setattr(image, "read", read)
    return reads


def test_a_block_that_cannot_be_read_twice_is_predicted_after_the_others(
    image, tmp_path, monkeypatch, caplog
):
    whole = predict(image, tmp_path / "whole.zarr")[...]
    once = fail_at_reads(image, monkeypatch, lambda n, _: n == 1)
    np.testing.assert_array_equal(part(image, tmp_path / "once.zarr")[...], whole)
    again = len(once) - 1  # the read that comes after all others
    caplog.clear()
    twice = fail_at_reads(image, monkeypatch, lambda n, _: n in (1, again))
    np.testing.assert_array_equal(part(image, tmp_path / "twice.zarr")[...], whole)
    assert twice == [*once, once[-1]]
    assert caplog.text.count("predicting: block 1: OSError: the server is away") == 2


def test_a_block_that_cannot_be_read_is_named_when_the_others_are_predicted(
    image, tmp_path, monkeypatch
):
    whole = part(image, tmp_path / "whole.zarr")[...]
    fail_at_reads(image, monkeypatch, lambda _, plane: plane > 0)
    message = r"predicting: block .* failed in 3 attempts: OSError: the server is away"
    with pytest.raises(RunError, match=message):
        part(image, tmp_path / "out.zarr")
    np.testing.assert_array_equal(open_volume(tmp_path / "out.zarr")[:, :4], whole[:, :4])
    monkeypatch.undo()
    np.testing.assert_array_equal(part(image, tmp_path / "out.zarr")[...], whole)


def test_the_blocks_of_an_earlier_call_stay(image, tmp_path, monkeypatch):
    """Memory may differ from call to call."""
    part(image, tmp_path / "out.zarr", settings={"block": None}, shard=Shard(0, 2))
    plan = stored_plan(tmp_path / "out.zarr")
    monkeypatch.setattr("pytc.inference.predict._free_memory", lambda *_: 1)
    part(image, tmp_path / "out.zarr", settings={"block": None})
    assert stored_plan(tmp_path / "out.zarr") == plan
