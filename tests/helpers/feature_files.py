"""Feature files: of numbered rows that can be told apart, of rows that a head can learn, and of a policy's features."""

from pathlib import Path

import numpy as np
import torch

from deploy_kit.data.schema import FeatureFileInfo, KeepReason
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.files import file_sha256
from deploy_kit.policy.fingerprint import feature_sha256
from deploy_kit.policy.network import VisionActorCritic
from helpers.networks import make_observations

FEATURES = 8
"""Columns of the numbered rows."""


def make_info(**changes: object) -> FeatureFileInfo:
    """Describe a file; changes: fields of `FeatureFileInfo`."""
    settings = {
        "feature_size": FEATURES,
        "feature_sha256": "f" * 64,
        "policy_sha256": "a" * 64,
        "label_rule": "the drone is near the gate",
        "label_threshold_m": 0.1 + 0.2,
        "label_offset_steps": 1,
        "policy_period_s": 0.03,
        "seed": 5,
        "stage": 2,
        "backend": "mujoco",
        "env_config": {"num_envs": 4, "difficulty": 0.1 + 0.7, "tracks": ["circular"]},
        "created_utc": "2026-01-02T03:04:05+00:00",
    }
    return FeatureFileInfo(**{**settings, **changes})


# -- numbered rows: the label in column 0, the time in column 1, the environment in column 2 ------------------------


def make_step(rng: np.random.Generator, time: int, envs: int, prevalence: float) -> dict[str, np.ndarray]:
    """Rows of one step of all environments."""
    label = (rng.random(envs) < prevalence).astype(np.int8)
    features = rng.standard_normal((envs, FEATURES)).astype(np.float32)
    features[:, 0], features[:, 1], features[:, 2] = label, time, np.arange(envs)
    env = np.arange(envs)
    episode = time // 50 * envs + env
    return {
        "features": features,
        "label": label,
        "episode_id": episode,
        "env_id": env,
        "track_id": env,
        "step": np.full(envs, time % 50),
    }


def feed(
    writer: FeatureFileWriter, steps: int, *, envs: int = 4, prevalence: float = 0.1, seed: int = 0, start: int = 0
) -> None:
    """Offer training rows."""
    rng = np.random.default_rng(seed)
    for time in range(start, start + steps):
        writer.add_training(**make_step(rng, time, envs, prevalence))


def add_episode(
    writer: FeatureFileWriter, episode: int, track: int, is_test: bool | None = None, length: int = 20
) -> None:
    """Add a held-out episode whose last step passes the gate."""
    label = np.arange(length) == length - 1
    features = np.random.default_rng(episode).standard_normal((length, FEATURES)).astype(np.float32)
    features[:, 0] = label
    writer.add_heldout_episode(features, label, episode, env_id=1, track_id=track, is_test=is_test)


def keep(writer: FeatureFileWriter, count: int = 3) -> np.ndarray:
    """Keep a few observations of 10 numbers and return them."""
    observation = np.random.default_rng(9).random((count, 10)).astype(np.float32)
    index = np.arange(count)
    reason = [KeepReason.GATE_PASS | KeepReason.STALE_IMAGE, KeepReason.FIRST_STEP, KeepReason.ORDINARY][:count]
    writer.keep_observations(
        observation, np.full((count, FEATURES), 0.5), index % 2, index, index, index, index, np.array(reason)
    )
    return observation


def write_numbered_file(path: Path, **changes: object) -> Path:
    """Write numbered rows: 40 + 40 training rows, four held-out episodes on tracks 100 to 103, three observations."""
    with FeatureFileWriter(path, make_info(**changes), 40, 40, seed=1) as writer:
        for number in range(4):
            add_episode(writer, 1000 + number, 100 + number, is_test=number % 2 == 1)
        keep(writer)
        feed(writer, 400)
    return path


# -- rows that a head can learn -------------------------------------------------------------------------------------


def separable_features(rng: np.random.Generator, label: np.ndarray, size: int = 192) -> np.ndarray:
    """Features like those of flights: leaky ReLU outputs; four of them tell the classes apart, with overlap."""
    features = 2 * rng.standard_normal((len(label), size))
    features[:, :4] += 2.5 * label[:, None]
    return np.where(features > 0, features, 0.01 * features).astype(np.float32)


def write_separable_file(path: Path, sha256: str, rows: int = 600, episodes: int = 8, **changes: object) -> Path:
    """Write a file that a head can learn from, for the policy whose `feature_sha256` is given."""
    rng = np.random.default_rng(0)
    with FeatureFileWriter(
        path, make_info(feature_size=192, feature_sha256=sha256, **changes), rows, rows, 0
    ) as writer:
        for number in range(episodes):
            label = np.arange(100) % 33 == 20
            writer.add_heldout_episode(separable_features(rng, label), label, 1000 + number, 0, 1000 + number)
        for time in range(100):
            label = np.arange(16) % 2 == 1
            ids = np.arange(16)
            writer.add_training(separable_features(rng, label), label, ids, ids, ids, np.full(16, time))
            if writer.full:
                break
    return path


# -- a policy's features of random observations ---------------------------------------------------------------------


def write_policy_file(
    path: Path, network: VisionActorCritic, checkpoint: Path | None = None, kept: int = 6, **changes: object
) -> Path:
    """Write a file of this policy: 300 training rows, 6 held-out episodes of 50 steps, and whole observations.

    kept: observations of each training episode; every fourth passes a gate, has a stale image, is ordinary, or is an
        episode's first step.
    """
    info = make_info(
        feature_size=network.config.feature_size,
        feature_sha256=feature_sha256(network),
        policy_sha256="a" * 64 if checkpoint is None else file_sha256(checkpoint),
        label_threshold_m=0.35,
        **changes,
    )
    reasons = np.resize(
        [KeepReason.FIRST_STEP, KeepReason.GATE_PASS, KeepReason.STALE_IMAGE, KeepReason.ORDINARY], 50
    ).astype(np.uint8)
    label, step = np.arange(50) % 2 == 0, np.arange(50)
    with FeatureFileWriter(path, info, num_positive=150, num_negative=150, seed=0) as writer:
        for episode in range(12):
            observation = make_observations(network, 50, episode)
            with torch.inference_mode():
                features = network(torch.from_numpy(observation)).features.numpy()
            if episode % 2:
                writer.add_heldout_episode(features, label, episode, 0, 100 + episode)
                continue
            ids = (np.full(50, episode), np.zeros(50, np.int32), np.full(50, 100 + episode))
            writer.add_training(features, label, *ids, step)
            if kept:
                columns = (observation, features, label, *ids, step, reasons)
                writer.keep_observations(*(column[:kept] for column in columns))
        writer.finish(complete=True)
    return path
