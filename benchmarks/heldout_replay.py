"""Replay held-out rows from a feature file: how far each artifact is off, how long it takes, and how much memory.

    python benchmarks/heldout_replay.py WORK --rows 2000000

Writes a feature file of so many rows (768 bytes each) once, from random features of the demo policy's size, exports the
demo policy with its C++ header, and does with the rows what `verify --feature-file` does: read, both heads, compare.
Prints the largest error of each output and its share of the limits of `fp32`, for the graph and for the header.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from deploy_kit.bundle.parity import ParityCheck
from deploy_kit.bundle.reader import open_bundle
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.data.schema import FeatureFileInfo
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.fingerprint import feature_sha256
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.progress import silent
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.artifacts import open_artifacts
from deploy_kit.verify.bundle_and_checkpoint import find_vehicle, pair_bundle
from deploy_kit.verify.dataset import open_dataset
from deploy_kit.verify.report import judge

EPISODE = 1000


def write_rows(path: Path, rows: int) -> None:
    """Write a file of held-out rows and 2 training rows."""
    checkpoint = load_checkpoint(DEMO_POLICY)
    info = FeatureFileInfo(
        feature_size=192,
        feature_sha256=feature_sha256(checkpoint.network),
        policy_sha256=checkpoint.sha256,
        label_rule="none",
        label_threshold_m=0.35,
        label_offset_steps=1,
        policy_period_s=0.03,
        seed=0,
        stage=2,
        backend="mujoco",
        env_config={},
        created_utc="2026-01-01T00:00:00+00:00",
    )
    rng = np.random.default_rng(0)
    with FeatureFileWriter(path, info, 1, 1, seed=0) as writer:
        for number in range(rows // EPISODE):
            features = rng.standard_normal((EPISODE, 192), np.float32) * 3
            features = np.where(features > 0, features, np.float32(0.01) * features)
            writer.add_heldout_episode(features, np.arange(EPISODE) % 50 == 0, number, 0, number, is_test=True)
        ones = np.full(2, 10**6)
        writer.add_training(
            features=features[:2], label=np.array([1, 0], np.int8), episode_id=ones, env_id=np.arange(2), track_id=ones,
            step=ones,
        )  # fmt: skip


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=int, default=2_000_000)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows, bundle = given.work / f"rows-{given.rows}.h5", given.work / "bundle"
    if not rows.exists():
        write_rows(rows, given.rows)
    if not bundle.exists():
        export_bundle(ExportOptions(DEMO_POLICY, bundle, use_auxiliary_head=True, task=TASK_ID, formats=("cpp",)))
    checkpoint, opened = load_checkpoint(DEMO_POLICY), open_bundle(bundle)
    subject = pair_bundle(opened, checkpoint, find_vehicle(checkpoint, TASK_ID, None, opened.contract))
    artifacts, _ = open_artifacts(subject)
    for name, head in artifacts.heads.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu = time.monotonic(), time.process_time()
        with open_dataset(rows, checkpoint.network) as dataset:
            for check in dataset.heldout_checks(subject, name, head, None, silent):
                assert isinstance(check, ParityCheck), check
                print(f"{check.name}: {check.rows} rows, {judge(check, Thresholds()).status}")
                for output in check.outputs:
                    element, share = output.worst(Thresholds().parity)
                    print(f"    {output.name}: off by {element.error:.2g}, {share:.2f} of the limit")
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"    {wall:.1f} s, {cpu:.1f} s of CPU here, {(after - before) / 1024:.0f} MiB more at the peak")


if __name__ == "__main__":
    main()
