"""Small feature files: features carry their label in column 0 and the time in column 1, so rows can be told apart."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy_kit.data.schema import FeatureFileInfo, KeepReason
from deploy_kit.data.writer import FeatureFileWriter

FEATURES = 8


def make_info(**changes: object) -> FeatureFileInfo:
    settings = {
        "feature_size": FEATURES,
        "feature_sha256": "f" * 64,
        "policy_sha256": "a" * 64,
        "label_rule": "the drone is near the gate",
        "label_threshold_m": 0.1 + 0.2,
        "label_offset_steps": 1,
        "seed": 5,
        "stage": 2,
        "backend": "mujoco",
        "env_config": {"num_envs": 4, "difficulty": 0.1 + 0.7, "tracks": ["circular"]},
        "created_utc": "2026-01-02T03:04:05+00:00",
    }
    return FeatureFileInfo(**{**settings, **changes})


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


def write_file(path: Path, **changes: object) -> Path:
    """Write a complete file: 40 + 40 training rows, four held-out episodes on tracks 100 to 103, three observations."""
    with FeatureFileWriter(path, make_info(**changes), 40, 40, seed=1) as writer:
        for number in range(4):
            add_episode(writer, 1000 + number, 100 + number, is_test=number % 2 == 1)
        keep(writer)
        feed(writer, 400)
    return path


@pytest.fixture
def feature_file(tmp_path: Path) -> Path:
    return write_file(tmp_path / "features.h5")


@pytest.fixture
def tools() -> dict[str, Callable]:
    """The helpers above, for test modules (which cannot import a conftest)."""
    return {
        "info": make_info,
        "step": make_step,
        "feed": feed,
        "episode": add_episode,
        "keep": keep,
        "write": write_file,
        "writer": lambda path, **changes: FeatureFileWriter(path, make_info(**changes), 100, 100, seed=0),
    }
