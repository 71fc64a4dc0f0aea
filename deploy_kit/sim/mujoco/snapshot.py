"""The whole state of the embedded simulator as arrays: everything that its next step depends on.

What follows from options, task and the number of an episode (vehicles, tracks, models) is made anew instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from tensordict import TensorDict

from deploy_kit.errors import InputError
from deploy_kit.generators import generator_state, set_generator_state
from deploy_kit.sim.options import EPISODE_STREAM
from deploy_kit.sim.randomisation import Vehicle
from deploy_kit.sim.tracks import Track
from deploy_kit.task.tracks import NUM_GATES

if TYPE_CHECKING:
    from deploy_kit.sim.mujoco.env import MujocoRacingEnv

Arrays = dict[str, npt.NDArray[Any]]

_OF_ENV = [
    "gate_noise",
    "level",
    "_level_flown",
    "_gate",
    "_gates_passed",
    "_episode_step",
    "_episode_id",
    "_target_noise",
]
_OF_FLEET = ["newest", "_pending", "_drag_linear", "_drag_quadratic", "_thrust_factor"]
_OF_PHYSICS = ["state", "rotation", "angular_acceleration"]
_OF_SENSORS = ["_streams", "_captured_at", "critic", "fresh"]

MAX_ROOM = 4096
"""Solids of a model that a snapshot may ask for; tracks have some hundred."""


@dataclass
class Slot:
    """What one environment keeps between steps besides the arrays.

    `episodes` counts the episodes begun; the generator is the current episode's.
    """

    track: Track
    vehicle: Vehicle
    episodes: int
    episode_rng: np.random.Generator


def _stored(env: "MujocoRacingEnv") -> Arrays:
    """Return the arrays that are taken as they are, by name: those of the environment themselves, not copies."""
    fleet, sensors = env._fleet, env._sensors
    parts: tuple[tuple[object, list[str]], ...] = (
        (env, _OF_ENV),
        (fleet, _OF_FLEET),
        (fleet.physics, _OF_PHYSICS),
        (sensors, _OF_SENSORS),
    )
    arrays = {name.lstrip("_"): getattr(owner, name) for owner, names in parts for name in names}
    return arrays | {"wrench": fleet._controller.wrench, "depth": sensors._cameras.depth}


def take_snapshot(env: "MujocoRacingEnv") -> Arrays:
    """Return the state of an environment between two steps; it is a copy."""
    observations = env.get_observations()
    return {
        **{name: array.copy() for name, array in _stored(env).items()},
        "episode_length": env.episode_length_buf.cpu().numpy().copy(),
        "episodes": np.array([slot.episodes for slot in env._slots], np.int64),
        "generators": np.stack([generator_state(slot.episode_rng) for slot in env._slots]),
        "room": np.array([env._fleet.physics.room], np.int64),
        # The critic's observation is the sensors' own.
        **{f"observed_{name}": observations[name].cpu().numpy().copy() for name in ("policy", "auxiliary")},
    }


def restore_snapshot(env: "MujocoRacingEnv", arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Put an environment into the state that `take_snapshot` gave for one with the same options and task.

    Raises:
        InputError: it was taken of another environment.
    """
    expected = take_snapshot(env)
    if arrays.keys() != expected.keys():
        names = sorted(arrays.keys() ^ expected.keys())
        raise InputError(f"a snapshot of another simulator: {names[0]!r} is in one of them alone")
    for name, array in expected.items():
        if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
            raise InputError(
                f"a snapshot of another simulator: {name} is {arrays[name].dtype} {arrays[name].shape}, not "
                f"{array.dtype} {array.shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(arrays[name]).all():
            raise InputError(f"a damaged snapshot: {name} is not finite")
    # Compiled code takes these for indices, unchecked.
    for name, end in (("gate", NUM_GATES), ("level", env.task.levels.count), ("episodes", 2**32)):
        if not ((arrays[name] >= 0) & (arrays[name] < end)).all():
            raise InputError(f"a damaged snapshot: {name} is not between 0 and {end - 1}")
    for name, array in _stored(env).items():
        array[...] = arrays[name]
    env.episode_length_buf[:] = torch.from_numpy(arrays["episode_length"].copy()).to(env.device)
    for index, (slot, episodes, words) in enumerate(
        zip(env._slots, arrays["episodes"].tolist(), arrays["generators"], strict=True)
    ):
        slot.episodes = episodes
        slot.episode_rng = env._generator(index, EPISODE_STREAM, max(episodes - 1, 0))
        try:
            set_generator_state(slot.episode_rng, words)
        except ValueError as error:
            raise InputError(f"a damaged snapshot: generator of environment {index}: {error}") from error
    _restore_tracks(env, int(arrays["room"][0]))
    groups = {
        "policy": arrays["observed_policy"],
        "critic": env._sensors.critic,
        "auxiliary": arrays["observed_auxiliary"],
    }
    tensors = {name: torch.from_numpy(array.copy()).to(env.device) for name, array in groups.items()}
    env._observations = TensorDict(tensors, batch_size=[env.num_envs], device=env.device)


def _restore_tracks(env: "MujocoRacingEnv", room: int) -> None:
    """Draw the tracks of the current episodes again, and put every environment on its own."""
    per_track = env.options.episodes_per_track
    for index, slot in enumerate(env._slots):
        # With levels, the level's own track; else the one whose turn it is.
        slot.track = env._new_track(index, (slot.episodes - 1) // per_track if per_track else 0)
        env._place_gates(index, slot.track)
    if not max(len(track.primitives) for track in env.tracks()) <= room <= MAX_ROOM:
        raise InputError(f"a damaged snapshot: models have room for {room} solids")
    env._fleet.physics.place_all(env.tracks(), room)
    for index, solids in enumerate(env._fleet.physics.solids):
        env._sensors.place(index, solids)
    env._solids = None
