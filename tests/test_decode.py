"""The one door from affinities to objects: every method by its name, one threshold or many."""

import typing
from dataclasses import replace

import numpy as np
import pytest
from reference_segmentation import random_affinities

from pytc import cli
from pytc.config import SHORT_AND_LONG, SegmentationConfig, SegmentationMethod
from pytc.renames import config_from_plain, segmentation_from_plain
from pytc.segmentation import decode as door
from pytc.segmentation import plain
from pytc.segmentation.decode import (
    METHODS,
    Method,
    channels_to_read,
    decode,
    decode_levels,
    settings_of,
)

SHAPE = (6, 9, 11)
UNITS = SHORT_AND_LONG[:3]
THRESHOLDS = (0.9, 0.75, 0.6, 0.3)


def afresh(affinities, config):
    """A method of its own, whose segments nothing joins."""
    labels = plain.flood_fill(affinities.steps, config.threshold, config.min_size)
    return labels.astype(np.uint32)


STANDING_IN = Method(
    "components",
    afresh,
    door._levels_afresh,
    reads_long_range=True,
    by_blocks=False,
    memory=0,
    has_curve=False,
)


def test_the_config_names_every_method():
    assert set(typing.get_args(SegmentationMethod)) == set(METHODS)


@pytest.mark.parametrize("min_size", (0, 5))
@pytest.mark.parametrize("method", ("components", "components_watershed"))
def test_one_threshold_equals_the_textbook(method, min_size):
    affinities = random_affinities(np.random.default_rng(3), SHAPE)
    config = SegmentationConfig(0.7, min_size, method)
    expected = plain.flood_fill(affinities, 0.7, min_size)
    if method == "components_watershed":
        expected = plain.seeded_watershed(expected, affinities)
    labels = decode(affinities, UNITS, config)
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, expected)
    # offsets say which channel is which, whatever their order, and others are not looked at
    order = [4, 2, 0, 3, 1]
    five = np.concatenate([affinities, np.ones((2, *SHAPE), affinities.dtype)])[order]
    offsets = [SHORT_AND_LONG[channel] for channel in order]
    np.testing.assert_array_equal(decode(five, offsets, config), expected)
    assert channels_to_read(5, offsets, config) == [2, 4, 1]


@pytest.mark.parametrize("needed", (False, True))
@pytest.mark.parametrize(
    "method", ("components", "components_watershed", "agglomeration", "afresh")
)
def test_many_thresholds_equal_one_after_the_other(monkeypatch, method, needed):
    """Segments of fragments are numbered in the order of the labels, and 0 where these are 0."""
    if method == "afresh":
        monkeypatch.setitem(METHODS, "components", STANDING_IN)
        method = "components"
    affinities = random_affinities(np.random.default_rng(4), SHAPE)
    config = SegmentationConfig(min_size=4, method=method)
    picked = np.random.default_rng(5).integers(0, np.prod(SHAPE), 40)
    pick = (lambda fragments: fragments.ravel()[picked]) if needed else None
    thresholds = iter(THRESHOLDS)
    for levels in decode_levels(affinities, UNITS, config, THRESHOLDS, needed=pick):
        assert levels.fragments.shape == SHAPE
        for segments_of in levels.segments:
            labels = decode(affinities, UNITS, replace(config, threshold=next(thresholds))).ravel()
            fragments = levels.fragments.ravel()
            if needed:
                labels, fragments = labels[picked], fragments[picked]
            _, expected = np.unique(np.append(0, labels), return_inverse=True)
            _, found = np.unique(np.append(0, segments_of(fragments)), return_inverse=True)
            np.testing.assert_array_equal(found, expected)
    assert next(thresholds, None) is None


def test_segments_are_numbered_in_raster_order():
    segments = np.array([[[7, 7, 0, 2], [2, 2, 9, 9]]], np.uint64)
    assert door._numbered(segments, 0).tolist() == [[[1, 1, 0, 2], [2, 2, 3, 3]]]
    assert door._numbered(segments, 3).tolist() == [[[0, 0, 0, 1], [1, 1, 0, 0]]]


def two_cubes():
    """Affinities (6, 8, 8, 16) float32 of two cubes that touch at x = 8, and their labels."""
    labels = np.ones((8, 8, 16), np.uint32)
    labels[..., 8:] = 2
    affinities = np.zeros((6, *labels.shape), np.float32)
    for channel, offset in enumerate((*UNITS, (3, 0, 0), (0, 3, 0), (0, 0, 3))):
        here = tuple(slice(0, n - o) for n, o in zip(labels.shape, offset))
        there = tuple(slice(o, None) for o in offset)
        affinities[channel][here] = np.where(labels[here] == labels[there], 0.9, 0.1)
    return affinities, (*UNITS, (3, 0, 0), (0, 3, 0), (0, 0, 3)), labels


@pytest.mark.parametrize(
    "package, method", [("waterz", "waterz"), ("mwatershed", "mutex_watershed")]
)
def test_methods_of_other_packages(package, method):
    pytest.importorskip(package)
    affinities, offsets, labels = two_cubes()
    config = SegmentationConfig(0.5, method=method)
    np.testing.assert_array_equal(decode(affinities, offsets, config), labels)
    small = replace(config, min_size=labels.size)
    assert not decode(affinities, offsets, small).any()
    (first, _) = decode_levels(affinities, offsets, config, (0.5, 0.05))
    np.testing.assert_array_equal(next(first.segments)(first.fragments), labels)
    assert channels_to_read(6, offsets, config) == (
        [0, 1, 2] if method == "waterz" else [0, 1, 2, 3, 4, 5]
    )


@pytest.mark.parametrize(
    "package, method", [("waterz", "waterz"), ("mwatershed", "mutex_watershed")]
)
def test_a_missing_package_is_named(monkeypatch, package, method):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    affinities, offsets, _ = two_cubes()
    with pytest.raises(ImportError, match=rf"{package} is needed: pip install .*agglomeration"):
        decode(affinities, offsets, SegmentationConfig(method=method))


def test_what_a_segmentation_depends_on():
    config = SegmentationConfig(0.6, 5, "components")
    assert settings_of(config) == {"threshold": 0.6, "method": "components", "min_size": 5}
    fragments = settings_of(replace(config, method="waterz"))
    assert "fragment_threshold" in fragments and "edge_weights" not in fragments


def test_what_an_earlier_release_said_by_grow():
    assert segmentation_from_plain({"grow": True, "min_size": 3}) == SegmentationConfig(
        min_size=3, method="components_watershed"
    )
    assert segmentation_from_plain({"grow": False}).method == "components"
    config = config_from_plain({"segmentation": {"threshold": 0.7, "grow": True}})
    assert config.segmentation == SegmentationConfig(0.7, method="components_watershed")


@pytest.mark.parametrize(
    "verb, flags, expected",
    [
        (cli.train, ["--segmentation.grow"], "--segmentation.method components_watershed in place"),
        (cli.infer, ["--segmentation.no-grow"], "--segmentation.method components in place"),
        (cli.evaluate, ["--grow", "True"], "--method components_watershed, or components in place"),
    ],
)
def test_a_flag_of_an_earlier_release_is_refused(verb, flags, expected):
    with pytest.raises(SystemExit, match=f"^error: expected {expected} of {flags[0]}$"):
        verb(flags)
