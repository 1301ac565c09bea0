import math
import random

import numpy as np
from scipy import stats

from components.data.statistics import interval


def test_the_mean_of_parts_counts_each_part_once():
    found = interval([[1.0, 1.0, 0.0, None], [None, None, None, 0.5]], ["a", "b", "c", "d"])
    assert math.isclose(found["mean"], (2 / 3 + 0.5) / 2)
    assert found["n"] == 4
    assert found["low"] <= found["mean"] <= found["high"]


def test_single_observations_agree_with_scipy():
    values = np.random.default_rng(1).normal(size=150)
    ours = interval([list(values)], [str(i) for i in range(150)])
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours["low"] - theirs.low) < 0.08 * width and abs(ours["high"] - theirs.high) < 0.08 * width


def test_clusters_that_move_together_widen_the_interval():
    rng = random.Random(0)
    per_cluster = [float(rng.random() < 0.5) for _ in range(50)]
    values = [v for v in per_cluster for _ in range(4)]
    clusters = [str(i) for i in range(50) for _ in range(4)]
    single = interval([values], [str(i) for i in range(200)])
    together = interval([values], clusters)
    # Four equal copies of one observation are worth one: the interval is sqrt(4) times as wide.
    ratio = (together["high"] - together["low"]) / (single["high"] - single["low"])
    assert 1.7 < ratio < 2.3


def test_constant_values_have_no_width_and_nothing_observed_is_not_a_number():
    assert interval([[1.0] * 5], list("abcde")) == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 5}
    assert math.isnan(interval([[None, None]], ["a", "b"])["mean"])


def test_the_same_seed_gives_the_same_interval():
    values, clusters = [[0.0, 1.0, 1.0, 0.0, 1.0]], list("aabbc")
    assert interval(values, clusters, seed=3) == interval(values, clusters, seed=3)
