"""A threshold for several volumes, and what the threshold of the others costs each of them."""

import numpy as np
import pytest

from pytc.evaluation.sweep import keep_row, sweep_result, with_row
from pytc.evaluation.together import best_together, transfers


def rows_of(scores, metric="dense_voi_sum"):
    rows = [{"threshold": threshold, metric: score} for threshold, score in scores.items()]
    return sweep_result(rows, metric)


def curve_of(scores, metric="dense_voi_sum"):
    """A sweep of one row, with a curve behind it."""
    falling = sorted(scores, reverse=True)
    values = np.array([scores[threshold] for threshold in falling])
    curve = {"threshold": np.array(falling), metric: values}
    best = falling[int(np.argmin(values))]
    return sweep_result([{"threshold": best, metric: scores[best]}], metric, curve)


def test_the_mean_over_volumes_decides():
    sweeps = [rows_of({0.3: 1.0, 0.5: 1.2, 0.7: 2.0}), rows_of({0.3: 3.0, 0.5: 1.1, 0.7: 1.0})]
    assert best_together(sweeps) == 0.5
    better = [rows_of({0.3: 0.9, 0.5: 0.2}, "nerl"), rows_of({0.3: 0.1, 0.5: 0.7}, "nerl")]
    assert best_together(better) == 0.3


def test_only_thresholds_of_all_volumes_count():
    sweeps = [rows_of({0.3: 1.0, 0.5: 1.2}), rows_of({0.5: 1.1, 0.7: 0.1})]
    assert best_together(sweeps) == 0.5
    with pytest.raises(ValueError, match="a threshold that all volumes were segmented at"):
        best_together([rows_of({0.3: 1.0}), rows_of({0.4: 1.0})])


def test_curves_change_only_at_their_thresholds():
    """0.35 is a threshold of the second volume alone; the first has its score from 0.3 on."""
    sweeps = [curve_of({0.0: 2.0, 0.3: 1.0, 0.6: 1.5}), curve_of({0.0: 1.0, 0.35: 0.5, 0.5: 3.0})]
    assert best_together(sweeps) == 0.35
    found = transfers({"a": sweeps[0], "b": sweeps[1]})
    assert (found["a"].best_threshold, found["a"].others_threshold) == (0.3, 0.35)
    assert found["a"].regret == 0
    assert (found["b"].others_threshold, found["b"].others_score) == (0.3, 1.0)
    assert found["b"].regret == 0.5


def test_a_threshold_that_is_kept_need_not_be_the_best():
    sweep = rows_of({0.3: 1.0, 0.7: 2.0})
    longer = with_row(sweep, {"threshold": 0.5, "dense_voi_sum": 1.1})
    assert [row["threshold"] for row in longer["all_results"]] == [0.3, 0.5, 0.7]
    kept = keep_row(longer, 0.5)
    assert (kept["best_threshold"], kept["best_dense_voi_sum"]) == (0.5, 1.1)
    assert kept["best_metrics"] is kept["all_results"][1]
