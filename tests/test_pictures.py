"""The pictures of report.html, and the table that leads to the worst skeletons."""

import base64
import io
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from three_bars import VOXEL, bar_affinities, bars, score, store, store_bars

from pytc.commands import EvaluateConfig
from pytc.evaluation.pictures import Matching, draw, palette
from pytc.metrics.overlap import contingency_table
from pytc.segmentation.connected_components import connected_components_3d


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> EvaluateConfig:
    return store_bars(tmp_path_factory.mktemp("bars"))


def test_report_carries_its_pictures(files, tmp_path):
    score(replace(files, output=str(tmp_path), attribution="made by <hand>"))
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=(?!\"data:image/png)", page) and "<script" not in page
    pictures = [
        base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^\"]+)", page)
    ]
    assert pictures[0] == (tmp_path / "sweep.png").read_bytes()
    sizes = [Image.open(io.BytesIO(png)).size for png in pictures[1:]]
    # image, labels, segmentation, errors
    assert sizes == 3 * 4 * [(24, 20)] + 4 * [(24, 12)] + 4 * [(20, 12)]
    assert "in a smaller piece of its label" in page and "wrongly in the mask" not in page
    assert "made by &lt;hand&gt;" in page and "Best by NERL: threshold 0.6500." in page


def test_errors_of_merged_split_and_missed_voxels():
    labels = np.array([[[1, 1, 1, 2, 2, 3, 3, 3, 0, 0]]])
    segments = np.array([[[7, 7, 8, 0, 9, 9, 9, 9, 9, 0]]])
    matching = Matching(contingency_table(labels, segments), "instance")
    assert matching.errors(labels, segments).tolist() == [[[0, 0, 2, 3, 1, 0, 0, 0, 0, 0]]]
    assert matching.colours(segments).tolist() == [[[1, 1, -8, 0, 3, 3, 3, 3, 3, 0]]]


def test_errors_of_a_mask():
    truth = np.array([[[-1, -1, 0, 0, 1, 1]]], np.int8)
    mask = np.array([[[0, 1, 0, 1, 0, 1]]], np.uint8)
    matching = Matching(contingency_table(truth, mask), "semantic")
    assert matching.errors(truth.astype(np.int64), mask.astype(np.int64)).tolist() == [
        [[0, 0, 0, 1, 3, 0]]
    ]
    empty = Matching(contingency_table(truth, 0 * mask), "semantic")
    assert empty.errors(truth.astype(np.int64), 0 * mask.astype(np.int64)).tolist() == [
        [[0, 0, 0, 0, 3, 3]]
    ]


def test_pictures_without_truth_and_of_anisotropic_voxels():
    rows = draw(bars(), "zyx", VOXEL)
    assert [[p.caption for p in row] for row in rows[::3]] == [
        ["segmentation, z = 3"],
        ["segmentation, y = 10"],
    ]
    assert rows[0][0].aspect == pytest.approx(24 / 20) and rows[3][0].aspect == pytest.approx(
        24 / (12 * 2)
    )


def test_palette_tells_ids_apart():
    colours = palette(np.arange(-50, 50))
    assert colours[50].tolist() == [0, 0, 0] and len(np.unique(colours, axis=0)) == 100
    assert colours.max(1)[np.arange(100) != 50].min() > 150


def test_worst_skeletons_name_the_voxel_of_an_error(files, tmp_path):
    def worst(threshold):
        segmentation = (
            connected_components_3d(bar_affinities(bars()), threshold) if threshold else bars()
        )
        path = store(tmp_path / "s.zarr", segmentation)
        score(
            EvaluateConfig(segmentation=path, skeleton=files.skeleton, output=str(tmp_path / "out"))
        )
        shutil.rmtree(path)
        page = (tmp_path / "out" / "report.html").read_text()
        table = page.partition("look at z, y, x</th></tr>")[2].partition("</table>")[0]
        return [re.findall("<td>(.*?)</td>", row) for row in table.split("<tr>")[1:]]

    merged = [
        ["1", "0.23", "0%", "0", "0", "2", "anywhere"],
        ["2", "0.23", "0%", "0", "0", "1", "anywhere"],
    ]
    assert worst(0.5) == merged
    assert worst(0.8) == [["3", "0.23", "46%", "1", "0", "none", "6, 16, 11"]]
    assert worst(None) == []
