"""Measure a bundle's gate detector on the test episodes of a feature file, with the code that flies.

The graph that ships gives the logits of the recorded features, the onboard runner's own detector decides step by step,
and episodes are drawn again for the intervals. Then the frontier: for each rate of false alarms the most passages that
any threshold finds on the validation episodes with the detector's other numbers, and what it finds on the test ones.

    deploy-kit finetune --checkpoint MODEL --feature-file FILE --objective events \
        --threshold-rule false-alarms-per-minute=2 --output OUT
    deploy-kit export --checkpoint OUT/policy_finetune_epoch-1.pt --use-auxiliary-head --feature-file FILE \
        --output BUNDLE
    python benchmarks/gate_detector.py BUNDLE FILE [--picture frontier.png]
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from deploy_kit.bundle.reader import open_bundle
from deploy_kit.bundle.runners import OnnxRunner
from deploy_kit.bundle.subgraph import cut_head
from deploy_kit.data.reader import open_feature_file
from deploy_kit.finetuning.rows import load_heldout
from deploy_kit.gate.evaluation import EvaluationRows
from deploy_kit.onboard.contract import parse_contract
from deploy_kit.onboard.detector import GateDetector as OnboardDetector
from deploy_kit.policy.calibration import GateDetector

RESAMPLES = 2000
RATES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)

Floats = npt.NDArray[np.float64]


def fire(detector: OnboardDetector, logit: Floats, episode: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rows at which the runner's detector fires, reset at each episode."""
    fired, before = [], -1
    for row, (value, number) in enumerate(zip(logit.tolist(), episode.tolist(), strict=True)):
        if number != before:
            detector.reset()
            before = number
        if detector.step(value):
            fired.append(row)
    return np.array(fired, np.int64)


def count(
    fired: npt.NDArray[np.int64], rows: EvaluationRows, tolerance: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return hits, false alarms and passages of each episode; a firing near a passage that was hit is a false alarm."""
    assert rows.episode is not None
    episode = np.cumsum(np.concatenate([[0], np.diff(rows.episode) != 0]))
    passages = np.flatnonzero(rows.label & ~np.concatenate([[False], rows.label[:-1] & (np.diff(episode) == 0)]))
    hits, alarms, passed = (np.zeros(episode[-1] + 1, np.int64) for _ in range(3))
    np.add.at(passed, episode[passages], 1)
    taken: set[int] = set()
    for row in fired.tolist():
        near = [
            passage
            for passage in passages[episode[passages] == episode[row]].tolist()
            if abs(passage - row) <= tolerance and passage not in taken
        ]
        if near:
            taken.add(min(near, key=lambda passage: abs(passage - row)))
            hits[episode[row]] += 1
        else:
            alarms[episode[row]] += 1
    return hits, alarms, passed


def main() -> None:
    """Print the figures and the frontier."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("feature_file", type=Path)
    parser.add_argument("--picture", type=Path, help="PNG of the frontier")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    contract = parse_contract(bundle.read("contract.json").decode())
    assert contract.detector is not None, "the bundle has no detector"
    spec = contract.text["gate"]["detector"]
    own = GateDetector(
        *(spec[name] for name in ("threshold_logit", "release_logit", "refractory_steps", "tolerance_steps")),
        *(spec[name] for name in ("slope_gain", "slope_steps", "slope_rise")),
    )
    graph = cut_head(onnx.load_model_from_string(bundle.read("policy.onnx")))
    head = OnnxRunner(graph, bundle.contract, features=True)
    with open_feature_file(options.feature_file) as file:
        validation, test = load_heldout([file], bundle.contract.timing.policy_period_s.value)
    logits = [head(rows.features.numpy())["gate_logit"][:, 0].astype(np.float64) for rows in (validation, test)]
    print(f"detector: {own}")
    fired = fire(OnboardDetector(contract.detector), logits[1], test.episode)
    hits, alarms, passed = count(fired, test, own.tolerance_steps)
    assert test.timeline is not None
    judged = test.timeline.count(logits[1], [own])
    assert (hits.sum(), alarms.sum()) == (judged.hits.sum(), judged.false_alarms.sum()), "runner and judge differ"
    minutes = np.bincount(np.cumsum(np.concatenate([[0], np.diff(test.episode) != 0]))) * test.seconds_per_step / 60
    drawn = np.random.default_rng(0).integers(len(passed), size=(RESAMPLES, len(passed)))
    figures = {
        "hit rate": (hits.sum() / passed.sum(), hits[drawn].sum(axis=1) / passed[drawn].sum(axis=1)),
        "false alarms a minute": (alarms.sum() / minutes.sum(), alarms[drawn].sum(axis=1) / minutes[drawn].sum(axis=1)),
    }
    print(f"{len(passed)} test episodes, {passed.sum()} passages, {minutes.sum():.1f} min")
    for name, (value, resampled) in figures.items():
        low, high = np.quantile(resampled, [0.025, 0.975])
        print(f"{name}: {value:.3f} ({low:.3f} to {high:.3f})")
    curves = frontier(own, (validation, test), logits)
    if options.picture is not None:
        draw(options.picture, curves)


def frontier(
    own: GateDetector, judged: tuple[EvaluationRows, EvaluationRows], logits: list[Floats]
) -> dict[str, Floats]:
    """Print the frontier and return hit rates and false alarms a minute of all thresholds, validation and test."""
    first = judged[0].timeline
    assert first is not None
    gap = own.threshold_logit - own.release_logit
    thresholds = np.quantile(first.score(logits[0], own), 1 - np.geomspace(2e-4, 0.2, 200))
    detectors = [replace(own, threshold_logit=float(t), release_logit=float(t) - gap) for t in thresholds]
    found = {}
    for name, rows, logit in zip(("validation", "test"), judged, logits, strict=True):
        assert rows.timeline is not None
        counts = rows.timeline.count(logit, detectors)
        minutes = len(rows.label) * rows.seconds_per_step / 60
        found[name] = np.stack(
            [counts.hits.sum(axis=1) / rows.timeline.passages, counts.false_alarms.sum(axis=1) / minutes]
        )
    print("at most a minute   validation         test")
    for rate in RATES:
        kept = np.flatnonzero(found["validation"][1] <= rate)
        best = kept[np.argmax(found["validation"][0][kept])]
        pairs = [f"{hit:.3f} at {alarm:.2f}" for hit, alarm in (values[:, best] for values in found.values())]
        print(f"{rate:16.1f}   {pairs[0]}   {pairs[1]}")
    return found


def draw(path: Path, curves: dict[str, Floats]) -> None:
    """Draw hit rate over false alarms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, (hits, alarms) in curves.items():
        axes.plot(alarms, hits, ".", markersize=3, label=name)
    axes.plot(2.0, 0.9, "k+", markersize=12, label="aim")
    axes.set(xlim=(0, 8), ylim=(0.4, 1.0), xlabel="false alarms a minute", ylabel="passages found")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
