"""Policies of rsl_rl from file to verdict: collect, finetune, export, verify with recorded rows and live rollouts."""

import h5py
import numpy as np
import pytest

from deploy_kit.bundle.policy_reader import open_policy_bundle
from deploy_kit.collection.run import CollectOptions, collect
from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import DatasetError
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.finetuning.run import FinetuneOptions, finetune
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.sim.options import EnvOptions
from deploy_kit.verify.policy.recorded import recorded_episodes
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle
from helpers.rsl_rl_files import make_policy, shape_hints


@pytest.mark.parametrize(("kind", "version"), [("lstm", 5), ("gru", 3), ("cnn", 5), ("mlp", 2)])
def test_a_policy_goes_the_whole_way(tmp_path, kind, version):
    made = make_policy(tmp_path / "run", kind, version)
    hints = NetworkHints(observation_shapes=shape_hints(kind))
    task = f"helpers.policy_env:{'make_seeing' if kind == 'cnn' else 'make'}"
    rows = collect(
        CollectOptions(
            made.path,
            tmp_path / "rows.h5",
            EnvOptions(num_envs=16),
            task,
            label="helpers.policy_env:high",
            num_positive=64,
            num_negative=64,
            heldout_episodes=16,
            keep_observations=80,
            hints=hints,
        )
    ).path
    head = finetune(FinetuneOptions(rows, made.path, tmp_path / "head", pgd_steps=0, new_head=True, hints=hints))
    bundle = export_bundle(
        ExportOptions(
            head.checkpoint, tmp_path / "bundle", use_auxiliary_head=True, feature_file=rows, num_golden=32, hints=hints
        )
    )
    assert open_policy_bundle(bundle).golden.source == "recorded"
    report = verify_bundle(
        VerifyOptions(
            bundle, head.checkpoint, rows, live_modes=("shadow", "driving"), task=task, episodes=16, seed=3,
            random_rows=64, hints=hints,
        )
    )  # fmt: skip
    assert [verdict for verdict in report.verdicts if verdict.status != "passed"] == []
    assert report.passed
    assert report.complete
    for name in ("replay/heldout/onnx-head", "replay/kept/onnx", "replay/stored-features", "live/driving"):
        assert report.verdict(name).status == "passed"
    if kind == "lstm":
        recorded_sequences_begin_with_their_first_step(rows, head.checkpoint)


def recorded_sequences_begin_with_their_first_step(rows, checkpoint) -> None:
    spec = load_policy(checkpoint).network.spec
    with open_feature_file(rows) as file:
        found = recorded_episodes(file, spec, None)
        kept = file.observations
    assert found is not None
    assert found.valid.sum() == len(kept) == sum((8, 11, 14, 17))  # of four environments' first episodes
    assert found.episodes.reset[0].all()
    assert not found.episodes.reset[1:].any()
    assert found.valid.sum(axis=0).tolist() == [8, 11, 14, 17]
    assert all(found.valid[:count, episode].all() for episode, count in enumerate((8, 11, 14, 17)))
    with h5py.File(rows, "r+") as file:
        names = [name for name in file["observations"] if name == "step"]
        steps = file["observations"][names[0]]
        steps[:] = np.asarray(steps) + 1
    with open_feature_file(rows) as file, pytest.raises(DatasetError, match="no episodes from their first step on"):
        recorded_episodes(file, spec, None)
