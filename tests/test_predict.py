import numpy as np
import pytest
import torch
from reference_inference import blended_logits, chessboard_distance, gaussian_bell
from small_predictions import make_image, network, predict

from pytc.inference.blending import blending_weights
from pytc.inference.output import manifest_of
from pytc.io.volume import create_volume, open_volume


@pytest.fixture
def image(tmp_path):
    return make_image(tmp_path / "image.zarr")


WEIGHTS = {"distance": chessboard_distance, "gaussian": gaussian_bell}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("window", [(4, 5, 6), (1, 3, 8), (7, 7, 7), (16, 2, 12)])
def test_weights_equal_their_twin(window, kind):
    np.testing.assert_allclose(blending_weights(window, kind), WEIGHTS[kind](window), rtol=1e-6)


@pytest.mark.parametrize("kind", ["distance", "gaussian"])
def test_weights_are_positive_symmetric_and_float32(kind):
    weights = blending_weights((6, 9, 16), kind)
    assert weights.min() > 0 and weights.max() == 1 and weights.dtype == np.float32
    np.testing.assert_allclose(weights, weights[::-1, ::-1, ::-1], rtol=1e-6)


@pytest.mark.parametrize("blending", ["distance", "gaussian"])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75])
@pytest.mark.parametrize("block, batch", [((512, 512, 512), 1), ((7, 11, 9), 3), ((19, 26, 4), 2)])
def test_prediction_equals_its_twin_whatever_the_blocks(
    image, tmp_path, blending, overlap, block, batch
):
    made = predict(
        image,
        tmp_path / "out.zarr",
        block=block,
        overlap=overlap,
        blending=blending,
        batch_size=batch,
    )
    pixels = image[...][None].astype(np.float32) / 255
    weights = WEIGHTS[blending]((8, 10, 12))

    def predicted(patch):
        return network(torch.from_numpy(patch[None]))[0].numpy()

    logits = blended_logits(predicted, pixels, 2, (8, 10, 12), overlap, weights)
    np.testing.assert_allclose(made[...].astype(np.float32), 1 / (1 + np.exp(-logits)), atol=1e-3)
    assert made.dtype == np.float16 and made.shape == (2, *image.shape)


def test_a_volume_smaller_than_the_window_is_padded(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 26, 23), dtype=np.uint8)
    with create_volume(tmp_path / "image.zarr", pixels.shape, pixels.dtype) as volume:
        volume[...] = pixels
    made = predict(
        open_volume(tmp_path / "image.zarr"),
        tmp_path / "out.zarr",
        net=lambda x: torch.cat([x, -x], 1),
    )
    np.testing.assert_allclose(
        made[0].astype(np.float32), 1 / (1 + np.exp(-(pixels / 255))), atol=1e-3
    )


def test_attributes_travel(image, tmp_path):
    predict(image, tmp_path / "out.zarr")
    made = open_volume(tmp_path / "out.zarr")
    assert (
        made.axes == "czyx"
        and made.voxel_size == (40, 4, 4)
        and made.attributes["activation"] == "sigmoid(1 x)"
    )


def test_a_killed_prediction_goes_on_where_it_stopped(image, tmp_path):
    whole = predict(image, tmp_path / "whole.zarr", block=(8, 13, 12))[...]
    calls = 0

    def dies(x):
        nonlocal calls
        calls += 1
        if calls > 20:
            raise KeyboardInterrupt
        return network(x)

    with pytest.raises(KeyboardInterrupt):
        predict(image, tmp_path / "out.zarr", net=dies, block=(8, 13, 12))
    assert 0 < len(manifest_of(tmp_path / "out.zarr").finished()) < 12

    def counts(x):
        nonlocal calls
        calls += 1
        return network(x)

    def fresh(net, output, key):
        nonlocal calls
        calls = 0
        result = predict(image, output, net=net, key=key, block=(8, 13, 12))[...]
        return result, calls

    resumed, after = fresh(counts, tmp_path / "out.zarr", "a")
    np.testing.assert_array_equal(resumed, whole)
    _, none = fresh(counts, tmp_path / "out.zarr", "a")
    replaced, everything = fresh(lambda x: counts(x) + 1, tmp_path / "out.zarr", "b")
    assert none == 0 < after < everything and (replaced != whole).any()


@pytest.mark.parametrize("earlier", [False, True])
def test_a_prediction_killed_before_its_first_block_is_made_anew(
    image, tmp_path, monkeypatch, earlier
):
    if earlier:
        predict(image, tmp_path / "out.zarr", key="b")

    def dies(path, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("pytc.inference.output.write_json", dies)
        predict(image, tmp_path / "out.zarr")
    first, again = (predict(image, tmp_path / name)[...] for name in ("out.zarr", "new.zarr"))
    np.testing.assert_array_equal(first, again)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "image.zarr",
        "new.zarr",
        "out.zarr",
    ]


def test_what_is_no_prediction_is_not_replaced(image, tmp_path):
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "mine").write_text("precious")
    with pytest.raises(ValueError, match="remove it or name another"):
        predict(image, tmp_path / "out.zarr")
    assert (tmp_path / "out.zarr" / "mine").read_text() == "precious"
