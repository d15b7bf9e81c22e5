"""Fragments, region graph, average linkage and cuts equal their plain forms, bit for bit."""

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from documents import examples, text_of

from pytc.segmentation import plain
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.fragments import FragmentSettings, make_fragments
from pytc.segmentation.linkage import average_linkage
from pytc.segmentation.merge_tree import Merges, MergeTree, load_merge_tree, relabelled
from pytc.segmentation.region_graph import region_graph
from pytc.segmentation.watershed import seeded_watershed

ROOT = Path(__file__).parent.parent
OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 0, 0), (0, 3, 0), (0, 0, 3))
EDGE_WEIGHTS = (3, 3, 3, 1, 1, 1)


def random_affinities(random, shape, dtype):
    """Half of the time with many equal values, so that ties are met."""
    values = random.random((6, *shape))
    if random.random() < 0.5:
        values = np.round(values * 16) / 16
    if dtype == np.uint8:
        return (values * 255).astype(np.uint8)
    return values.astype(dtype)


def tree_of(fragments, merges):
    flat = fragments.ravel()
    first = [int(np.argmax(flat == n)) for n in range(int(flat.max()) + 1)]
    return MergeTree(merges, np.bincount(flat), np.array(first))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_every_step_equals_its_plain_form(dtype):
    random = np.random.default_rng(0)
    for _ in range(40):
        shape = tuple(random.integers(1, 8, 3))
        affinities = random_affinities(random, shape, dtype)
        seeds = connected_components_3d(affinities, 0.9, min_size=2)
        np.testing.assert_array_equal(seeds, plain.flood_fill(affinities, 0.9, 2))

        fragments = seeded_watershed(seeds, affinities)
        np.testing.assert_array_equal(fragments, plain.seeded_watershed(seeds, affinities))

        graph = region_graph(fragments, affinities, OFFSETS, EDGE_WEIGHTS)
        plain_graph = plain.region_graph(fragments, affinities, OFFSETS, EDGE_WEIGHTS)
        rows = zip(graph.pairs.tolist(), graph.sums.tolist(), graph.weights.tolist())
        assert {tuple(pair): [total, weight] for pair, total, weight in rows} == plain_graph

        merges = average_linkage(graph)
        plain_merges = plain.average_linkage(plain_graph)
        columns = (merges.scores.tolist(), merges.first.tolist(), merges.second.tolist())
        assert list(zip(*columns)) == plain_merges

        tree = tree_of(fragments, merges)
        for threshold in (0.3, 0.5, 0.7):
            segments = relabelled(fragments, tree.cut(threshold))
            np.testing.assert_array_equal(segments, plain.cut(fragments, plain_merges, threshold))


def test_threads_and_memory_orders_change_no_bit():
    random = np.random.default_rng(1)
    affinities = random_affinities(random, (20, 24, 30), np.float16)
    settings = FragmentSettings(threshold=0.7, min_size=3, block=(8, 16, 16), halo=(2, 3, 4))
    one = make_fragments(affinities, settings, threads=1)
    graph = region_graph(one.labels, affinities, OFFSETS, EDGE_WEIGHTS, threads=1)
    for other in (affinities, np.asfortranarray(affinities), affinities[:, ::1]):
        many = make_fragments(other, settings, threads=5)
        np.testing.assert_array_equal(one.labels, many.labels)
        np.testing.assert_array_equal(one.sizes, many.sizes)
        np.testing.assert_array_equal(one.first_voxels, many.first_voxels)
        again = region_graph(many.labels, other, OFFSETS, EDGE_WEIGHTS, threads=7)
        np.testing.assert_array_equal(graph.pairs, again.pairs)
        np.testing.assert_array_equal(graph.sums, again.sums)
        np.testing.assert_array_equal(graph.weights, again.weights)


def test_fragments_are_measured_as_they_lie():
    random = np.random.default_rng(2)
    affinities = random_affinities(random, (9, 17, 13), np.float32)
    settings = FragmentSettings(threshold=0.8, min_size=2, block=(4, 8, 8), halo=(1, 2, 2))
    made = make_fragments(affinities, settings)
    flat = made.labels.ravel()
    np.testing.assert_array_equal(np.bincount(flat), made.sizes)
    for fragment in range(1, len(made.sizes)):
        assert flat.tolist().index(fragment) == made.first_voxels[fragment]


def test_small_segments_are_background_and_a_tree_is_stored_whole(tmp_path):
    merges = Merges(np.array([0.9, 0.4]), np.array([1, 1], np.uint64), np.array([3, 2], np.uint64))
    tree = MergeTree(merges, np.array([5, 2, 7, 1]), np.array([0, 9, 4, 2]))
    assert tree.cut(0.9).tolist() == [0, 3, 2, 1]  # in the order of their first voxels
    assert tree.cut(0.5).tolist() == [0, 1, 2, 1]
    assert tree.cut(0.5, min_size=4).tolist() == [0, 0, 1, 0]
    assert tree.cut(0.0).tolist() == [0, 1, 1, 1]
    tree.save(tmp_path / "merges.npz")
    again = load_merge_tree(tmp_path / "merges.npz")
    np.testing.assert_array_equal(again.cut(0.5), tree.cut(0.5))
    (tmp_path / "other.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"expected a merge tree in .*other\.npz"):
        load_merge_tree(tmp_path / "other.npz")


def test_what_does_not_fit_is_refused():
    affinities = np.zeros((6, 4, 4, 4), np.float16)
    fragments = np.ones((4, 4, 4), np.uint32)
    with pytest.raises(ValueError, match="an offset for each of 6 channels"):
        region_graph(fragments, affinities, OFFSETS[:3], EDGE_WEIGHTS)
    with pytest.raises(ValueError, match="a weight of 0 or more for each of 6 channels"):
        region_graph(fragments, affinities, OFFSETS, (0,) * 6)
    with pytest.raises(ValueError, match="fragments of shape"):
        region_graph(fragments.astype(np.int32), affinities, OFFSETS, EDGE_WEIGHTS)
    with pytest.raises(ValueError, match="integer seeds of shape"):
        seeded_watershed(fragments[:2], affinities)
    with pytest.raises(ValueError, match="a fragment block of 1 voxel or more"):
        make_fragments(affinities, FragmentSettings(block=(0, 1, 1)))


def test_the_page_on_decoding_runs_and_names_what_there_is():
    text, named = text_of("docs/decode.md"), {}
    for example in examples("docs/decode.md"):
        exec(example, named)
    names = re.findall(r"`plain\.(\w+)`", text)
    assert names and all(hasattr(plain, name) for name in names)
    for name, file in re.findall(r"`([\w.]+)` in `(\w+)\.py`", text):
        found = import_module(f"pytc.segmentation.{file}")
        for part in name.split("."):
            found = getattr(found, part)
