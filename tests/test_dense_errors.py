"""Splits and mergers, ranked by what they cost: compared with a volume that is mended by hand."""

from dataclasses import replace

import numpy as np
import pytest

from pytc.evaluation.errors import (
    adjudicated,
    coverage,
    dense_errors,
    locate,
    read_errors,
    with_verdicts,
    write_errors,
)
from pytc.evaluation.pictures import Matching
from pytc.metrics.overlap import contingency_table, overlap_metrics

SHAPE = (40, 30, 30)  # more than one slab of planes


def blocks(size, seed):
    """Labels in blocks, some of them joined, some background."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE) // np.array(size).reshape(3, 1, 1, 1)
    numbers = (z * 100 + y * 10 + x).astype(np.int64)
    ids = rng.integers(0, 9, numbers.max() + 1)
    return ids[numbers]


LABELS, SEGMENTS = blocks((14, 10, 12), 0), blocks((9, 11, 8), 1)
TABLE = contingency_table(LABELS, SEGMENTS)
ERRORS = dense_errors(TABLE)


def shared(label, segment):
    return np.equal(LABELS, label) & np.equal(SEGMENTS, segment)


def test_each_error_is_of_the_kind_that_the_pictures_show():
    codes = Matching(TABLE, "instance").errors(LABELS, SEGMENTS)
    for kind, code in (("merger", 1), ("split", 2)):
        voxels = sum(error.voxels for error in ERRORS if error.kind == kind)
        assert voxels == (codes == code).sum() > 0
    for error in ERRORS:
        inside = shared(error.label, error.segment)
        assert inside.sum() == error.voxels
        sizes = np.bincount(SEGMENTS[np.equal(LABELS, error.label) & (SEGMENTS > 0)])
        if error.kind == "missing":
            assert error.voxels > sizes.max()
        elif error.kind == "split":
            assert sizes[error.whole] == sizes.max()
        else:
            of_labels = np.bincount(LABELS[np.equal(SEGMENTS, error.segment)])[1:]
            assert of_labels[error.whole - 1] == of_labels.max()


def test_an_error_costs_what_voi_falls_by_when_it_is_mended():
    before = overlap_metrics(LABELS, SEGMENTS)["voi_sum"]
    for error in ERRORS:
        inside = shared(error.label, error.segment)
        sizes = np.bincount(SEGMENTS[np.equal(LABELS, error.label) & (SEGMENTS > 0)])
        target = int(sizes.argmax())
        mended = SEGMENTS.copy()
        mended[inside] = 1000 if target == error.segment else target
        after = overlap_metrics(LABELS, mended)["voi_sum"]
        assert error.voi == pytest.approx(before - after, abs=1e-9)
        assert error.share == pytest.approx(error.voi / before)
    for kind in ("split", "merger"):
        costs = [error.voi for error in ERRORS if error.kind == kind]
        assert costs == sorted(costs, reverse=True) and len(costs) > 3


def test_a_missing_label_is_one_error():
    labels = np.ones((4, 4, 4), np.uint32)
    segments = np.zeros((4, 4, 4), np.uint32)
    labels[2:] = 2
    segments[2:] = 5
    segments[0, 0, 0] = 7
    (error,) = dense_errors(contingency_table(labels, segments))
    assert (error.kind, error.label, error.voxels) == ("missing", 1, 31)


def test_a_position_is_at_the_border_to_the_rest():
    located = locate(ERRORS, LABELS, SEGMENTS, (40.0, 4.0, 4.0))
    at_border = 0
    for error in located:
        assert LABELS[error.position] == error.label
        assert SEGMENTS[error.position] == error.segment
        rest = shared(error.label, error.whole)
        if error.kind == "missing":
            continue
        if error.kind == "merger":
            rest = shared(error.whole, error.segment)
        steps = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
        around = np.array(error.position) + steps
        around = around[((around >= 0) & (around < SHAPE)).all(1)]
        if rest[tuple(around.T)].any():
            at_border += 1
        else:
            assert not touching(shared(error.label, error.segment), rest)
    assert at_border > len(located) / 2


def touching(inside, rest):
    """Whether a voxel of one region is next to one of the other."""
    for axis in range(3):
        here, there = np.moveaxis(inside, axis, 0), np.moveaxis(rest, axis, 0)
        if (here[1:] & there[:-1]).any() or (here[:-1] & there[1:]).any():
            return True
    return False


def test_the_file_keeps_errors_and_verdicts(tmp_path):
    located = locate(ERRORS, LABELS, SEGMENTS)
    path = tmp_path / "errors.csv"
    path.write_bytes(write_errors(located, "zyx"))
    lines = path.read_text().splitlines()
    assert lines[0] == "id,kind,label,segment,whole,voxels,voi,share,z,y,x,verdict"
    path.write_text("\n".join([lines[0], lines[1] + "labels wrong", *lines[2:]]) + "\n")
    judged = read_errors(path)
    assert [error.id for error in judged] == [error.id for error in located]
    again = with_verdicts(located, judged)
    assert again[0].verdict == "labels wrong" and not any(error.verdict for error in again[1:])
    turned = read_errors(path, "xyz")
    assert turned[0].position == located[0].position[::-1]
    path.write_text("\n".join([lines[0], lines[1].replace(str(located[0].voxels), "many")]))
    with pytest.raises(ValueError, match=r"errors.csv, line 2, got .*'many'"):
        read_errors(path)
    path.write_text("kind\nsplit\n")
    with pytest.raises(ValueError, match="the columns of errors.csv"):
        read_errors(path)


@pytest.mark.parametrize("kind", ["split", "merger"])
def test_a_verdict_corrects_the_labels(kind):
    number = next(n for n, error in enumerate(ERRORS) if error.kind == kind)
    judged = list(ERRORS)
    judged[number] = replace(ERRORS[number], verdict=" Labels wrong")
    corrected = LABELS.copy()
    error = ERRORS[number]
    inside = shared(error.label, error.segment)
    corrected[inside] = 1000 if kind == "split" else error.whole
    expected = overlap_metrics(corrected, SEGMENTS)
    scores = adjudicated(TABLE, judged)
    assert scores == pytest.approx(
        {f"adjudicated_dense_{name}": value for name, value in expected.items()}
    )
    assert scores["adjudicated_dense_voi_sum"] < overlap_metrics(LABELS, SEGMENTS)["voi_sum"]
    judged[number] = replace(ERRORS[number], verdict="an error indeed")
    assert adjudicated(TABLE, judged) == {}


def test_coverage_says_what_was_scored():
    found = coverage(TABLE, LABELS.size)
    labelled = LABELS > 0
    assert found["frac_scored"] == pytest.approx(labelled.mean())
    assert found["frac_in_segments"] == pytest.approx((SEGMENTS[labelled] > 0).mean())
    alone = overlap_metrics(np.where(SEGMENTS > 0, LABELS, 0), SEGMENTS)
    for name in ("voi_split", "voi_merge", "voi_sum"):
        assert found[f"dense_{name}_without_0"] == pytest.approx(alone[name])
    assert found["dense_voi_sum_without_0"] != pytest.approx(
        overlap_metrics(LABELS, SEGMENTS)["voi_sum"]
    )
