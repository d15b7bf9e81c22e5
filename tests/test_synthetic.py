import numpy as np
import pytest
from scipy import ndimage

from pytc.io.synthetic import make_neurites
from pytc.io.synthetic.fields import blur, smooth_noise
from pytc.io.synthetic.image import draw_membranes
from pytc.metrics.skeleton import SkeletonMetrics

CASES = {
    "isotropic": ((96, 96, 96), (10, 10, 10)),
    "anisotropic": ((32, 112, 112), (30, 8, 8)),
    "x first": ((64, 64, 40), (9, 9, 20)),
    "small": ((16, 17, 18), (10, 10, 10)),
}


@pytest.fixture(scope="module", params=CASES)
def made(request):
    shape, voxel_size = CASES[request.param]
    return make_neurites(shape, 3, voxel_size=voxel_size)


@pytest.fixture(scope="module")
def cube():
    return make_neurites((96, 96, 96), 3)


def test_volumes_fit_their_contract(made):
    assert made.image.shape == made.labels.shape
    assert (made.image.dtype, made.labels.dtype) == (np.uint8, np.uint32)
    assert made.image.flags.c_contiguous and made.labels.flags.c_contiguous
    assert 100 < made.image.mean() < 200 and 15 < made.image.std() < 60


def test_every_voxel_belongs_to_a_neurite_in_one_piece(made):
    ids = np.unique(made.labels)
    assert ids.tolist() == list(range(1, len(ids) + 1))
    for label, box in enumerate(ndimage.find_objects(made.labels.astype(np.int32)), start=1):
        assert ndimage.label(made.labels[box] == label)[1] == 1, label


def test_skeletons_are_trees_on_their_own_labels(made):
    skeleton = made.skeleton
    assert np.unique(skeleton.ids).tolist() == np.unique(made.labels).tolist()
    np.testing.assert_array_equal(made.labels[tuple(skeleton.positions.T)], skeleton.ids)
    np.testing.assert_allclose(skeleton.nm, skeleton.positions * np.array(made.voxel_size))
    for label in np.unique(skeleton.ids):
        nodes = np.flatnonzero(skeleton.ids == label)
        edges = np.searchsorted(nodes, skeleton.edges[skeleton.ids[skeleton.edges[:, 0]] == label])
        assert len(edges) == len(nodes) - 1
        matrix = np.zeros((len(nodes), len(nodes)), bool)
        matrix[edges[:, 0], edges[:, 1]] = matrix[edges[:, 1], edges[:, 0]] = True
        reached = np.arange(len(nodes)) == 0
        for _ in nodes:
            reached = reached | matrix[reached].any(0)
        assert reached.all()
    assert skeleton.edge_lengths.min() > 0


def test_edges_are_steps_along_the_neurite(made):
    assert (
        np.abs(np.diff(made.skeleton.positions[made.skeleton.edges], axis=1)).max((1, 2)) <= 4
    ).all()


def test_neurites_are_many_long_and_not_thin(cube):
    lengths = np.bincount(
        cube.skeleton.ids[cube.skeleton.edges[:, 0]].astype(int), cube.skeleton.edge_lengths
    )[1:]
    assert len(lengths) >= 15 and np.median(lengths) > 600 and lengths.max() < 0.35 * lengths.sum()
    depth = ndimage.distance_transform_edt(1 - draw_membranes(cube.labels, np.ones(3)))
    assert np.median(depth[tuple(cube.skeleton.positions.T)]) > 4


def test_some_neurites_branch(cube):
    degree = np.bincount(cube.skeleton.edges.ravel())
    assert (degree == 3).sum() > 5


def test_the_same_seed_gives_the_same_volume_whatever_the_global_generator():
    np.random.seed(0)
    first = make_neurites((24, 32, 40), 5, voxel_size=(20, 9, 9), defects=0.2)
    state = np.random.get_state()[1].copy()
    again = make_neurites((24, 32, 40), 5, voxel_size=(20, 9, 9), defects=0.2)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    other = make_neurites((24, 32, 40), 6, voxel_size=(20, 9, 9), defects=0.2)
    for name in ("image", "labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert (getattr(first, name) != getattr(other, name)).any()
    np.testing.assert_array_equal(first.skeleton.edges, again.skeleton.edges)


def test_no_threshold_on_the_image_finds_the_neurites(cube):
    metrics = SkeletonMetrics(cube.skeleton)
    assert metrics.compute(cube.labels)["nerl"] == 1
    scores = []
    for sigma in (0, 0.7, 1, 1.5, 2):
        image = (
            ndimage.gaussian_filter(cube.image.astype(np.float32), sigma) if sigma else cube.image
        )
        for threshold in np.percentile(image, np.arange(4, 70, 6)):
            segmentation = ndimage.label(image > threshold)[0].astype(np.uint32)
            scores.append(metrics.compute(segmentation)["nerl"])
    assert max(scores) < 0.15


def test_membranes_are_dark_and_uneven(cube):
    border = draw_membranes(cube.labels, np.ones(3)) > 0
    image = cube.image / 255
    assert image[border].mean() < image[~border].mean() - 0.15
    smooth = ndimage.gaussian_filter(image, 1)
    assert np.percentile(smooth[border], 97) > np.percentile(smooth[~border], 20)  # gaps
    # organelles as dark as membranes
    assert np.percentile(smooth[~border], 1) < np.percentile(smooth[border], 30)


def test_noise_is_what_was_asked_for():
    quiet, loud = (make_neurites((32, 32, 32), 0, noise=noise) for noise in (0.0, 0.1))
    np.testing.assert_array_equal(quiet.labels, loud.labels)
    difference = (loud.image.astype(float) - quiet.image) / 255
    assert difference.std() == pytest.approx(0.1, rel=0.1)


def test_defects_damage_a_share_of_the_slices_and_leave_the_labels():
    clean, damaged = (make_neurites((40, 48, 48), 0, defects=defects) for defects in (0.0, 0.25))
    np.testing.assert_array_equal(clean.labels, damaged.labels)
    np.testing.assert_array_equal(clean.skeleton.positions, damaged.skeleton.positions)
    changed = (clean.image != damaged.image).any((1, 2))
    assert changed.sum() == 10
    assert (damaged.image[changed].mean((1, 2)) < 30).sum() == 4  # dropped: every third one
    everything = make_neurites((40, 48, 48), 0, defects=1.0)
    assert (clean.image != everything.image).any((1, 2)).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"shape": (64, 64)}, r"shape of type tuple\[int, int, int\]"),
        ({"shape": (64, 64, 15)}, "at least 16 voxels"),
        ({"voxel_size": (10, 10, 0)}, "voxel_size above 0"),
        ({"voxel_size": (10, 10)}, r"voxel_size of type tuple\[float, float, float\]"),
        ({"voxel_size": (100, 4, 4)}, "12 times as long"),
        ({"defects": 1.5}, r"defects in \[0, 1\]"),
        ({"noise": -0.1}, "noise of 0 or more"),
    ],
)
def test_impossible_volumes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_neurites(**({"shape": (16, 16, 16), "seed": 0} | arguments))


@pytest.mark.parametrize("sigma", [(1.0, 2.0, 0.5), (0.0, 1.5, 0.0)])
def test_blur_equals_scipy(sigma):
    image = np.random.default_rng(0).normal(size=(7, 9, 11)).astype(np.float32)
    wanted = image
    for axis, width in enumerate(sigma):
        if width:
            wanted = ndimage.gaussian_filter1d(
                wanted, width, axis, mode="nearest", radius=int(np.ceil(2.5 * width))
            )
    blur(image, np.array(sigma))
    np.testing.assert_allclose(image, wanted, atol=1e-6)


def test_smooth_noise_is_linear_between_its_draws():
    noise = smooth_noise((13, 9, 7), np.array([4.0, 1.0, 0.3]), np.random.default_rng(0))
    assert noise.shape == (13, 9, 7) and noise.dtype == np.float32
    np.testing.assert_allclose(noise[4:8].mean(0), (noise[4] * 5 + noise[8] * 3) / 8, atol=1e-5)
    assert (
        0.8
        < smooth_noise((60, 60, 60), np.array([1.0, 1.0, 1.0]), np.random.default_rng(0)).std()
        < 1.2
    )
