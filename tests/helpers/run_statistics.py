"""Whether two sets of collections differ in distribution: statistics of each file, and a test over many files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import ks_2samp

from deploy_kit.data.reader import open_feature_file

PROJECTIONS = 3
"""Fixed random directions in which features are looked at."""


def statistics(path: Path) -> dict[str, float]:
    """Return figures of one feature file, each of which has one distribution over seeds."""
    with open_feature_file(path) as file:
        train, info = file.train, file.attrs
        label, features = train.label, train.features
        directions = np.random.default_rng(0).standard_normal((PROJECTIONS, features.shape[1]))
        found = {
            "prevalence": info.prevalence,
            "negative rate": info.negative_rate,
            "rows seen": float(info.rows_seen),
        }
        for name, rows in (("positive", label), ("negative", ~label)):
            tracks, counts = np.unique(train.track_id[rows], return_counts=True)
            found[f"{name}: tracks"] = float(tracks.size)
            found[f"{name}: rows of the commonest track"] = float(counts.max())
            found[f"{name}: episodes"] = float(np.unique(train.episode_id[rows]).size)
            found[f"{name}: mean step"] = float(train.step[rows].mean())
            found[f"{name}: spread of steps"] = float(train.step[rows].std())
            for number, direction in enumerate(directions):
                values = features[rows] @ direction
                found[f"{name}: feature mean {number}"] = float(values.mean())
                found[f"{name}: feature spread {number}"] = float(values.std())
        for number in range(PROJECTIONS):
            # How long a collection took moves both classes alike; what moves one alone is seen here.
            means = [found[f"{name}: feature mean {number}"] for name in ("negative", "positive")]
            found[f"between classes: feature mean {number}"] = means[0] - means[1]
        if file.num_heldout:
            heldout = file.heldout()
            found["held-out: rows"] = float(len(heldout))
            found["held-out: prevalence"] = float(heldout.label.mean())
            found["held-out: longest episode"] = float(heldout.step.max())
            found["held-out: feature mean"] = float((heldout.features @ directions[0]).mean())
        return found


def p_values(one: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return for each statistic the p value of the two-sample Kolmogorov-Smirnov test, the files being independent."""
    return {
        name: float(ks_2samp([run[name] for run in one], [run[name] for run in other]).pvalue)
        for name in one[0]
        if len({run[name] for run in (*one, *other)}) > 1
    }


def differing(found: dict[str, float], level: float = 0.01) -> list[str]:
    """Return the statistics that differ at a level for all of them together (Holm's step-down rule)."""
    names = sorted(found, key=lambda name: found[name])
    rejected: list[str] = []
    for place, name in enumerate(names):
        if found[name] > level / (len(names) - place):
            break
        rejected.append(name)
    return rejected
