import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from deploy_kit.errors import InputError, OptionError, TaskError
from deploy_kit.sim.mujoco.camera import SolidTable
from deploy_kit.sim.mujoco.env import MujocoRacingEnv
from deploy_kit.sim.mujoco.scene import build_model
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import matrix_from_quaternion
from deploy_kit.task.interface import ActionTransform
from deploy_kit.task.racing import RACING_TASK, ObservationNoise, Randomisation
from helpers.tracks import quiet, track_of
from helpers.whole_scene import compiled_frame

TRANSFORM = ActionTransform.from_limits(3.0, 6.0)
HOVER = math.atanh(1 / 1.5 - 1)
"""Action whose thrust equals the weight."""


def options(**changes):
    return EnvOptions(**{"num_envs": 1, "obstacles": False, "randomisation": False, "num_threads": 1, **changes})


def act(env, thrust=HOVER, x=0.0, y=0.0, z=0.0):
    return torch.tensor([[thrust, x, y, z]]).repeat(env.num_envs, 1)


def run(env, steps, thrust=HOVER, **rates):
    """Step with one action; returns observations, rewards, dones and extras of every step."""
    return [env.step(act(env, thrust, **rates)) for _ in range(steps)]


@pytest.fixture
def quiet_env():
    with MujocoRacingEnv(options(), quiet()) as env:
        yield env


def test_shapes_and_types():
    with MujocoRacingEnv(options(num_envs=3)) as env:
        observations = env.get_observations()
        assert {k: tuple(v.shape) for k, v in observations.items()} == {
            "policy": (3, 6928),
            "critic": (3, 6928),
            "auxiliary": (3, 1),
        }
        observations, rewards, dones, extras = env.step(torch.zeros(3, 4))
        assert observations["policy"].dtype == rewards.dtype == torch.float32
        assert rewards.shape == dones.shape == (3,)
        assert dones.dtype == torch.int64
        wanted = {
            "time_outs": torch.bool,
            "track_id": torch.int64,
            "episode_id": torch.int64,
            "episode_step": torch.int32,
            "crashed": torch.bool,
            "gates_passed": torch.int32,
            "speed": torch.float32,
            "position": torch.float32,
            "quaternion": torch.float32,
            "fresh_image": torch.bool,
            "first_step": torch.bool,
        }
        assert {k: v.dtype for k, v in extras.items() if k != "log"} == wanted
        assert env.num_actions == 4
        assert env.max_episode_length == 267
        assert extras["track_id"].tolist() == [track.track_id for track in env.tracks()]


@pytest.mark.parametrize(("stage", "steps"), [(0, 200), (1, 200), (2, 267)])
def test_episode_lengths(stage, steps):
    with MujocoRacingEnv(options(stage=stage)) as env:
        assert env.max_episode_length == steps


def test_an_action_acts_one_step_later(quiet_env):
    env = quiet_env
    at_rest = [1.5 * 9.81, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(env.get_observations()["policy"][0, 12:16], at_rest, rtol=1e-6)
    action = torch.tensor([[0.3, -0.5, 0.2, 1.0]])
    observations, *_ = env.step(action)
    np.testing.assert_allclose(observations["policy"][0, 12:16], at_rest, rtol=1e-6)
    observations, *_ = env.step(torch.zeros(1, 4))
    np.testing.assert_allclose(observations["policy"][0, 12:16], TRANSFORM.apply(action.numpy())[0], rtol=1e-5)
    observations, *_ = env.step(torch.zeros(1, 4))
    np.testing.assert_allclose(observations["policy"][0, 12:16], at_rest, rtol=1e-6)


def test_thrust_lag_gravity_and_drag_in_flight(quiet_env):
    env = quiet_env
    start = env.tracks()[0].start
    # The first action acts as zeros, 1.5 times the weight, through a lag of one period from zero thrust.
    height, speed, thrust = float(start[2]), 0.0, 0.0
    k = math.exp(-1)
    for target in (1.5 * 9.81, 9.81, 9.81):
        thrust = (1 - k) * target + k * thrust
        drag = 0.72 * speed + 0.04 * speed * abs(speed)
        for _ in range(3):
            speed += 0.01 * (thrust - drag - 9.81)
            height += 0.01 * speed
        _, _, _, extras = env.step(act(env))
        assert float(extras["position"][0, 2]) == pytest.approx(height, abs=1e-6)
        assert float(extras["speed"][0]) == pytest.approx(abs(speed), abs=1e-5)


def test_a_commanded_rate_turns_the_drone_that_way():
    for axis, component in (("x", 1), ("y", 2), ("z", 3)):
        with MujocoRacingEnv(options(), quiet()) as env:
            before = matrix_from_quaternion(env.step(act(env))[3]["quaternion"].double().numpy())[0]
            *_, last = run(env, 6, **{axis: 0.3})
            after = matrix_from_quaternion(last[3]["quaternion"].double().numpy())[0]
            turn = before.T @ after
            rotation = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
            assert rotation[component - 1] > 0.05
            assert np.abs(np.delete(rotation, component - 1)).max() < 0.01


def test_every_second_image_is_fresh_and_a_reset_captures_at_once(quiet_env):
    env = quiet_env
    images = [env.get_observations()["critic"][0, 16:]]
    fresh, first = [], []
    for _ in range(40):
        observations, _, dones, extras = env.step(act(env, thrust=-2.0))
        fresh.append(bool(extras["fresh_image"][0]))
        first.append(bool(extras["first_step"][0]))
        images.append(observations["critic"][0, 16:])
        if dones[0]:
            break
    assert dones[0] == 1
    ended = len(fresh)
    assert fresh == [step % 2 == 0 for step in range(ended)]
    assert first == [step == 0 for step in range(ended)]
    for step in range(1, ended):
        assert torch.equal(images[step], images[step - 1]) == (step % 2 == 1)
    # The image after the reset is the one from the start, whatever step the crash happened at.
    torch.testing.assert_close(images[ended], images[0])
    _, _, _, extras = env.step(act(env))
    assert extras["fresh_image"][0]
    assert extras["first_step"][0]
    assert extras["episode_step"][0] == 0


def test_critic_observation_by_term(quiet_env):
    env = quiet_env
    track = env.tracks()[0]
    run(env, 4, x=0.05, y=0.1, z=-0.05)
    before = env.step(act(env, y=0.1))[3]["position"][0].double().numpy()
    observations, _, _, extras = env.step(act(env, y=0.1))
    observed = observations["critic"][0].double().numpy()
    position = extras["position"][0].double().numpy()
    rotation = matrix_from_quaternion(extras["quaternion"][0].double().numpy())
    mean_velocity = rotation.T @ ((position - before) / 0.03)
    np.testing.assert_allclose(observed[0:3], mean_velocity, atol=0.1)
    assert np.linalg.norm(observed[0:3]) == pytest.approx(float(extras["speed"][0]), rel=1e-5)
    np.testing.assert_allclose(observed[3:6], rotation[2], atol=1e-6)
    gates = track.gate_positions
    np.testing.assert_allclose(observed[6:9], rotation.T @ (gates[0] - position), atol=1e-5)
    np.testing.assert_allclose(observed[9:12], rotation.T @ (gates[1] - gates[0]), atol=1e-5)
    np.testing.assert_allclose(observed[12:16], TRANSFORM.apply(np.array([HOVER, 0.0, 0.1, 0.0])), atol=1e-5)
    assert observed[16:].min() >= 0.0
    assert observed[16:].max() <= 1.0


def test_without_noise_policy_and_critic_differ_in_the_gates_alone(quiet_env):
    observations, *_ = quiet_env.step(act(quiet_env))
    same = torch.isclose(observations["policy"][0], observations["critic"][0], atol=1e-6)
    assert set(torch.nonzero(~same).flatten().tolist()) <= set(range(6, 12))
    assert not same[6:12].all()


def test_gate_noise_is_drawn_anew_only_when_the_target_changes():
    with MujocoRacingEnv(options(tracks=("circular",)), quiet()) as env:

        def noise(observations, quaternion):
            difference = (observations["policy"] - observations["critic"])[0, 6:12].double().numpy()
            rotation = matrix_from_quaternion(quaternion[0].double().numpy())
            current = rotation @ difference[:3]
            return current, rotation @ difference[3:] + current

        drawn = [noise(observations, extras["quaternion"]) for observations, _, _, extras in run(env, 10, z=0.2)]
        for current, following in drawn:
            np.testing.assert_allclose(current, drawn[0][0], atol=1e-5)
            np.testing.assert_allclose(following, drawn[0][1], atol=1e-5)
            assert np.abs(current).max() <= 0.5
            assert np.abs(following).max() <= 0.5
            assert np.abs(current - following).max() > 1e-3
    with MujocoRacingEnv(options(tracks=("circular",)), dataclasses.replace(quiet(), pass_radius=1e3)) as env:
        drawn = [noise(observations, extras["quaternion"]) for observations, _, _, extras in run(env, 60)]
        values = np.array(drawn)
        assert np.abs(np.diff(values, axis=0)).max(axis=(1, 2)).min() > 1e-3
        assert np.abs(values).max() <= 0.5 + 1e-4
        # Uniform in ±0.5: standard deviation 0.2887.
        assert values.std() == pytest.approx(0.2887, rel=0.12)


def test_depth_noise_is_relative_drawn_every_step_and_before_the_clip():
    task = dataclasses.replace(quiet(), noise=ObservationNoise(0.0, 0.0, 0.02))
    with MujocoRacingEnv(options(), task) as env:
        ratios, previous = [], None
        for observations, _, _, _ in run(env, 12):
            noisy, clean = observations["policy"][0, 16:], observations["critic"][0, 16:]
            assert noisy.max() <= 1.0
            far = clean == 1.0
            assert 0.4 < float((noisy[far] == 1.0).float().mean()) < 0.6
            ratio = (noisy / clean)[clean < 0.9]
            assert previous is None or not torch.equal(noisy, previous)
            previous = noisy
            ratios.append(ratio)
        ratio = torch.cat(ratios)
        assert float(ratio.mean()) == pytest.approx(1.0, abs=1e-3)
        assert float(ratio.std()) == pytest.approx(0.02, rel=0.02)


def test_velocity_and_attitude_noise_reach_the_policy():
    task = dataclasses.replace(quiet(), noise=ObservationNoise(0.03, 0.05, 0.0))
    with MujocoRacingEnv(options(num_envs=8), task) as env:
        steps = run(env, 40, thrust=0.0)
        noisy = torch.cat([observations["policy"][:, :6] for observations, *_ in steps])
        clean = torch.cat([observations["critic"][:, :6] for observations, *_ in steps])
    moving = clean[:, 2].abs() > 0.1
    assert float((noisy[moving, 2] / clean[moving, 2] - 1).std()) == pytest.approx(0.03, rel=0.15)
    assert float((noisy[:, 3:5] - clean[:, 3:5]).std()) == pytest.approx(0.05, rel=0.15)


def test_a_fall_ends_as_a_crash_not_as_a_time_out(quiet_env):
    steps = run(quiet_env, 60, thrust=-3.0)
    ends = [index for index, (_, _, dones, _) in enumerate(steps) if dones[0]]
    _, rewards, _, extras = steps[ends[0]]
    assert extras["crashed"][0]
    assert not extras["time_outs"][0]
    assert extras["position"][0, 2] < 0.06
    # -100 for the contact, times 0.03 s.
    assert float(rewards[0]) == pytest.approx(-3.0, abs=0.1)
    _, _, _, following = steps[ends[0] + 1]
    assert following["first_step"][0]
    assert following["position"][0, 2] > 0.5


def test_the_clock_ends_as_a_time_out_not_as_a_crash():
    with MujocoRacingEnv(options(), quiet(episode_length_s=0.3)) as env:
        assert env.max_episode_length == 10
        steps = run(env, 12)
    assert [int(dones[0]) for _, _, dones, _ in steps] == [0] * 9 + [1, 0, 0]
    assert steps[9][3]["time_outs"][0]
    assert not steps[9][3]["crashed"][0]
    assert [int(extras["episode_step"][0]) for *_, extras in steps] == [*range(10), 0, 1]
    assert len({int(extras["episode_id"][0]) for *_, extras in steps}) == 2


def test_the_time_out_follows_the_length_buffer():
    # rsl_rl writes random lengths into it, so that environments do not end together.
    with MujocoRacingEnv(options(num_envs=2), quiet(episode_length_s=0.3)) as env:
        env.episode_length_buf[1] = 7
        dones = [step[2].tolist() for step in run(env, 10)]
    assert [row[1] for row in dones][:4] == [0, 0, 1, 0]
    assert [row[0] for row in dones] == [0] * 9 + [1]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_turning_over_ends_stages_1_and_2(stage):
    with MujocoRacingEnv(options(stage=stage), quiet()) as env:
        run(env, 40, thrust=0.1)
        steps = run(env, 20, x=2.0)
    ended = [bool(extras["crashed"][0]) for *_, extras in steps]
    assert any(ended) == (stage > 0)
    if stage:
        quaternion = steps[ended.index(True)][3]["quaternion"][0].double().numpy()
        assert -0.7 < matrix_from_quaternion(quaternion)[2, 2] < 0


def test_stage_0_flies_through_the_ground_and_ends_by_height():
    """No colliders: the root below 0 or above 10 m ends the episode, and nothing else but time."""
    with MujocoRacingEnv(options(stage=0), quiet()) as env:
        steps = run(env, 60, thrust=-3.0)
        ended = [step for step in steps if step[2][0]]
        assert -0.3 < ended[0][3]["position"][0, 2] < 0
        assert ended[0][3]["crashed"][0]
    with MujocoRacingEnv(options(stage=0), quiet()) as env:
        ended = [step for step in run(env, 120, thrust=3.0) if step[2][0]]
        assert ended[0][3]["position"][0, 2] > 10.0
        assert ended[0][3]["crashed"][0]
        assert not ended[0][3]["time_outs"][0]


def test_stage_0_pays_for_points_inside_a_solid():
    """-50 while at least 3 of 17 body points are inside, touching or not; the flight goes on."""
    start, box = (0.0, 0.0, 1.5), Primitive("box", (0.5, 0.5, 0.5), (0.0, 0.0, 0.45))
    # The box ends at 0.95 m. The four lower corners, 25 mm below the centre, are inside from 0.975 m on.
    with MujocoRacingEnv(options(stage=0), quiet()) as env:
        env._place(0, track_of(box, start=start))
        env.reset()
        heights, rewards = [], []
        for _, reward, dones, extras in run(env, 40, thrust=-3.0):
            if dones[0]:
                break
            heights.append(float(extras["position"][0, 2]))
            rewards.append(float(reward[0]))
    inside = np.array(heights) < 0.975
    assert inside.any()
    assert not inside.all()
    np.testing.assert_array_equal(np.array(rewards) < -1.4, inside)


def test_the_label_is_judged_before_the_reset():
    # Every step passes a gate here, the one at which the clock ends the episode too.
    task = dataclasses.replace(quiet(episode_length_s=0.15), pass_radius=1e3)
    with MujocoRacingEnv(options(tracks=("circular",)), task) as env:
        assert env.get_observations()["auxiliary"].tolist() == [[0.0]]
        steps = run(env, 5)
        assert [int(dones[0]) for _, _, dones, _ in steps] == [0, 0, 0, 0, 1]
        assert [observations["auxiliary"][0, 0].item() for observations, *_ in steps] == [1.0] * 5
        assert [int(extras["gates_passed"][0]) for *_, extras in steps] == [1, 2, 3, 4, 5]
        assert int(env.step(act(env))[3]["gates_passed"][0]) == 1


def test_a_gate_is_passed_within_the_radius_of_its_true_centre():
    # The first gate is 2 to 4 m ahead of a start at rest; radii just below and above the distance decide.
    with MujocoRacingEnv(options(), quiet()) as env:
        _, _, _, extras = env.step(act(env))
        gate = env.tracks()[0].gate_positions[0]
        distance = float(np.linalg.norm(gate - extras["position"][0].double().numpy()))
    for radius, label in ((distance - 1e-4, 0.0), (distance + 1e-4, 1.0)):
        with MujocoRacingEnv(options(), dataclasses.replace(quiet(), pass_radius=radius)) as env:
            observations, rewards, _, extras = env.step(act(env))
            assert observations["auxiliary"][0, 0] == label
            # The target moves on at once.
            rotation = matrix_from_quaternion(extras["quaternion"][0].double().numpy())
            target = env.tracks()[0].gate_positions[int(label)]
            expected = rotation.T @ (target - extras["position"][0].double().numpy())
            np.testing.assert_allclose(observations["critic"][0, 6:9], expected, atol=1e-5)
            gate_reward = 0.03 * 20 / (distance**2 + 1)
            assert (float(rewards[0]) > 0.5 * gate_reward) == bool(label)


@pytest.mark.parametrize("finish", ["end", "cyclic"])
def test_the_last_gate_of_a_zigzag(finish):
    task = dataclasses.replace(quiet(), pass_radius=1e3)
    with MujocoRacingEnv(options(tracks=("zigzag",), finish=finish), task) as env:
        track = env.tracks()[0]
        steps = run(env, 9)
        observations, _, _, extras = steps[6]
        rotation = matrix_from_quaternion(extras["quaternion"][0].double().numpy())
        offset = rotation @ observations["critic"][0, 9:12].double().numpy()
    following = track.exit_point if finish == "end" else track.gate_positions[0]
    np.testing.assert_allclose(offset, following - track.gate_positions[7], atol=1e-4)
    assert [int(dones[0]) for _, _, dones, _ in steps] == [0] * 7 + [int(finish == "end"), 0]
    assert bool(steps[7][3]["time_outs"][0]) == (finish == "end")
    assert not steps[7][3]["crashed"][0]
    assert [int(extras["gates_passed"][0]) for *_, extras in steps] == [*range(1, 9), 1 if finish == "end" else 9]


def test_closed_tracks_go_on_after_the_last_gate():
    task = dataclasses.replace(quiet(), pass_radius=1e3)
    with MujocoRacingEnv(options(tracks=("ellipse",)), task) as env:
        assert [int(extras["gates_passed"][0]) for *_, extras in run(env, 12)] == list(range(1, 13))


def snapshot(num_envs, num_threads, steps=70, rows=2, **changes):
    changes = {"obstacles": True, "randomisation": True, "seed": 7, "episodes_per_track": 1, **changes}
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(steps, rows, 4)).astype(np.float32) - np.float32([0.7, 0, 0, 0])
    values = []
    with MujocoRacingEnv(options(num_envs=num_envs, num_threads=num_threads, **changes)) as env:
        for step in range(steps):
            action = torch.zeros(num_envs, 4)
            action[:rows] = torch.from_numpy(actions[step])
            observations, rewards, dones, extras = env.step(action)
            tensors = [*observations.values(), rewards, dones, *(v for k, v in extras.items() if k != "log")]
            values.append([tensor[:rows].numpy() for tensor in tensors])
    return values


def test_the_same_seed_gives_the_same_whatever_the_threads_and_the_other_environments():
    first = snapshot(2, 1)
    assert sum(int(step[4].sum()) for step in first) >= 2
    for num_envs, num_threads in ((2, 2), (5, 3)):
        for step, other in zip(first, snapshot(num_envs, num_threads), strict=True):
            for a, b in zip(step, other, strict=True):
                np.testing.assert_array_equal(a, b)
    different = snapshot(2, 1, steps=1, seed=8)
    assert not np.array_equal(first[0][0], different[0][0])
    assert not np.array_equal(first[0][0][0], first[0][0][1])


def test_a_new_track_after_the_episodes_asked_for():
    with MujocoRacingEnv(options(episodes_per_track=2), quiet(episode_length_s=0.06)) as env:
        ids = [int(extras["track_id"][0]) for *_, extras in run(env, 12)]
        assert env.tracks()[0].track_id >= 0
    assert ids[:4] == [ids[0]] * 4
    assert ids[4:8] == [ids[4]] * 4
    assert len(set(ids)) == 3
    with MujocoRacingEnv(options(), quiet(episode_length_s=0.06)) as env:
        assert len({int(extras["track_id"][0]) for *_, extras in run(env, 12)}) == 1


def test_starts_are_spread_above_the_start_point_and_face_the_first_gate():
    starts, headings, tilts, speeds = [], [], [], []
    with MujocoRacingEnv(options(num_envs=12, obstacles=True, num_threads=2)) as env:
        tracks = env.tracks()
        for _ in range(12):
            _, extras = env.step(act(env))[2:]
            position, quaternion = extras["position"].double().numpy(), extras["quaternion"].double().numpy()
            for index, track in enumerate(tracks):
                to_gate = track.gate_positions[0] - position[index]
                rotation = matrix_from_quaternion(quaternion[index])
                heading = math.atan2(rotation[1, 0], rotation[0, 0]) - math.atan2(to_gate[1], to_gate[0])
                headings.append((heading + math.pi) % (2 * math.pi) - math.pi)
                tilts.append(math.acos(rotation[2, 2]))
                starts.append(position[index] - track.start)
            speeds.extend(extras["speed"].tolist())
            env.reset()
    # One policy step has moved them a little.
    starts = np.array(starts) - [0.0, 0.0, 0.5]
    assert 0.45 < np.abs(starts).max() < 0.52
    assert 0.6 < np.abs(headings).max() < 0.75
    assert 0.2 < max(tilts) < 0.31
    assert max(speeds) < 0.35


NO_RANDOMISATION = Randomisation(0.0, (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), 0.0, 0.0, 0.0, 0.0)


def spread_of_flights(randomisation):
    """Return how far apart six drones end that do the same from the same attitude, relative to their starts, m."""
    task = dataclasses.replace(quiet(), randomisation=randomisation)
    with MujocoRacingEnv(options(num_envs=6, tracks=("circular",), randomisation=True), task) as env:
        *_, last = run(env, 15, thrust=0.5, x=0.2, y=0.3, z=0.5)
        gates = np.array([track.gate_positions[0] for track in env.tracks()])
        starts = np.array([track.start for track in env.tracks()])
    # In a frame that looks at the first gate, all flights would be the same.
    heading = np.arctan2(*(gates - starts)[:, [1, 0]].T)
    moved = last[3]["position"].double().numpy() - starts
    forward = moved[:, 0] * np.cos(heading) + moved[:, 1] * np.sin(heading)
    left = moved[:, 1] * np.cos(heading) - moved[:, 0] * np.sin(heading)
    return np.ptp(np.stack([forward, left, moved[:, 2]]), axis=1).max()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Randomisation)])
def test_every_randomisation_reaches_the_flight(field):
    everything = Randomisation()
    assert spread_of_flights(NO_RANDOMISATION) < 1e-5
    only = dataclasses.replace(NO_RANDOMISATION, **{field: getattr(everything, field)})
    if field == "drag_z_factor":
        # It multiplies what the other two add to.
        only = dataclasses.replace(only, drag_z_factor=4.0)
    assert spread_of_flights(only) > 1e-4


def test_randomisation_can_be_switched_off():
    with MujocoRacingEnv(options(num_envs=6, randomisation=False), quiet()) as env:
        *_, last = run(env, 10, thrust=0.5)
        climb = last[3]["position"][:, 2].double().numpy() - [track.start[2] for track in env.tracks()]
    assert np.ptp(climb) < 1e-6


@pytest.mark.parametrize(
    ("steps", "gates", "factor"),
    # Every step passes a gate; the last step's is not counted.
    [(4, 3, 1.0), (5, 4, 1.01), (3, 2, 0.98)],
)
def test_the_curriculum_scales_the_gate_noise(steps, gates, factor):
    """×1.01 from 4 gates, ×0.98 below 3, not counting the last step's; the reset that begins everything counts 0."""
    stage = dataclasses.replace(RACING_TASK.stages[1], episode_length_s=0.03 * steps)
    task = dataclasses.replace(quiet(), pass_radius=1e3, stages=(stage,) * 3)
    with MujocoRacingEnv(options(stage=1, tracks=("circular",)), task) as env:
        assert env.gate_noise[0] == pytest.approx(0.098)
        episode = run(env, steps)
        assert episode[-1][2][0] == 1
        assert int(episode[-1][3]["gates_passed"][0]) == gates + 1
        assert env.gate_noise[0] == pytest.approx(0.098 * factor)
        run(env, steps)
        assert env.gate_noise[0] == pytest.approx(0.098 * factor**2)


def test_the_gate_noise_grows_without_bound():
    stage = dataclasses.replace(RACING_TASK.stages[1], episode_length_s=0.15)
    task = dataclasses.replace(quiet(), pass_radius=1e3, stages=(stage,) * 3)
    with MujocoRacingEnv(options(stage=1, tracks=("circular",)), task) as env:
        env.gate_noise[:] = 7.0
        run(env, 5)
        assert env.gate_noise[0] == pytest.approx(7.07)


@pytest.mark.parametrize("stage", [0, 2])
def test_other_stages_keep_their_gate_noise(stage):
    with MujocoRacingEnv(options(stage=stage), quiet(episode_length_s=0.06)) as env:
        run(env, 4)
        assert env.gate_noise[0] == (0.0, 0.1, 0.5)[stage]


def test_earlier_observations_are_not_overwritten(quiet_env):
    first = quiet_env.get_observations()
    copy = first.clone()
    run(quiet_env, 3, thrust=1.0, x=0.5)
    for key, value in copy.items():
        assert torch.equal(first[key], value)


def test_reset_begins_new_episodes_everywhere():
    with MujocoRacingEnv(options(num_envs=2)) as env:
        before = env.step(act(env))[3]["episode_id"]
        observations, extras = env.reset()
        assert extras == {"log": {}}
        assert torch.equal(observations["policy"], env.get_observations()["policy"])
        after = env.step(act(env))[3]
        assert after["first_step"].all()
        assert not set(before.tolist()) & set(after["episode_id"].tolist())


def test_bad_actions_are_refused(quiet_env):
    with pytest.raises(InputError, match=r"\(1, 3\), not \(1, 4\)"):
        quiet_env.step(torch.zeros(1, 3))
    with pytest.raises(InputError, match="environment 0 are not finite"):
        quiet_env.step(torch.tensor([[0.0, float("nan"), 0.0, 0.0]]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_envs": 0}, OptionError, "num_envs is 0"),
        ({"seed": -1}, OptionError, "seed is -1"),
        ({"stage": 3}, OptionError, "stage is 3"),
        ({"difficulty": -0.1}, OptionError, r"difficulty is -0\.1"),
        ({"episodes_per_track": -1}, OptionError, "episodes_per_track is -1"),
        ({"num_threads": 0}, OptionError, "num_threads is 0"),
        ({"levels": True, "difficulty": 0.5}, OptionError, "leave difficulty out"),
        ({"levels": True, "episodes_per_track": 1}, OptionError, "leave episodes_per_track out"),
        ({"neighbours": True}, OptionError, "ask for levels too"),
        ({"finish": "stop"}, OptionError, "finish is 'stop'"),
        ({"tracks": ("elipse",)}, TaskError, "did you mean 'ellipse'"),
    ],
)
def test_bad_options_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        MujocoRacingEnv(options(**change))


def test_the_action_on_its_way_outlives_the_episode():
    """The first step of an episode flies the last action of the one before, which last_action showed as acting too."""
    first, last = torch.tensor([[0.3, 0.2, -0.4, 0.5]]), torch.tensor([[-0.1, 1.0, 0.3, -0.2]])
    with MujocoRacingEnv(options(), quiet(episode_length_s=0.06)) as env:
        acting = [env.get_observations()["policy"][0, 12:16].numpy()]
        for action in (first, last, first):
            observations, *_ = env.step(action)
            acting.append(observations["policy"][0, 12:16].numpy())
    zero, one, two = (TRANSFORM.apply(a.numpy())[0] for a in (torch.zeros(1, 4), first, last))
    # The second step ends the first episode: its observation is the new episode's.
    for shown, expected in zip(acting, (zero, zero, one, two), strict=True):
        np.testing.assert_allclose(shown, expected, rtol=1e-5)


def test_lags_and_acceleration_start_anew_at_reset(quiet_env):
    """Thrust and torque lags, and the acceleration that the controller damps, are cleared."""

    def opening():
        return [extras["position"][0].tolist() for *_, extras in run(quiet_env, 4, thrust=0.2, y=0.3)]

    def end(action):
        for _ in range(300):
            if quiet_env.step(action)[2][0]:
                return
        raise AssertionError

    # The same last action on its way, after gentle and after wild flights.
    openings = []
    for x in (0.0, 3.0):
        run(quiet_env, 20, thrust=3.0, x=x, z=x)
        quiet_env.episode_length_buf[:] = quiet_env.max_episode_length - 1
        end(act(quiet_env))
        openings.append(opening())
    assert openings[0] == openings[1]


@pytest.mark.parametrize(("weight", "term"), [("body_rate", 5.0), ("command_change", None)])
def test_rewards_are_for_the_action_just_given(weight, term):
    """Body rates and change of command are the newest action's; an episode's first change is from an action of 0."""
    none = dataclasses.replace(RACING_TASK.stages[2].rewards, progress=0.0, body_rate=0.0, command_change=0.0)
    none = dataclasses.replace(none, collision=0.0, perception=0.0, gate=0.0, flipped=0.0)
    task = quiet(episode_length_s=0.09, rewards=dataclasses.replace(none, **{weight: 1.0}))
    actions = [torch.tensor([[0.4, math.atanh(0.5), 0.0, math.atanh(-2 / 3)]]), torch.tensor([[0.1, 0.0, 0.2, 0.0]])]
    given = [TRANSFORM.apply(a.double().numpy())[0] * [0.5, 1, 1, 1] for a in (torch.zeros(1, 4), *actions)]
    with MujocoRacingEnv(options(), task) as env:
        rewards = [float(env.step(action)[1]) / 0.03 for action in (*actions, actions[0], actions[0])]
    if weight == "body_rate":
        assert rewards[0] == pytest.approx(term, rel=1e-5)
        assert rewards[1] == pytest.approx(6 * math.tanh(0.2), rel=1e-5)
    else:
        changes = [np.sum((a - b) ** 2) for a, b in itertools.pairwise(given)]
        # The third step ends the episode, so that the fourth one's change is from an action of 0 again.
        assert rewards == pytest.approx([*changes, changes[1], changes[0]], rel=1e-4)


def test_thrust_and_last_action_are_in_the_mass_that_the_controller_reckons_with():
    """Thrust over weight is 3 · (M + u1) / (M + u2); last_action shows thrust over the controller's own mass."""
    randomisation = dataclasses.replace(NO_RANDOMISATION, mass=0.02)
    task = dataclasses.replace(
        quiet(),
        randomisation=randomisation,
        airframe=dataclasses.replace(RACING_TASK.airframe, drag_linear=0.0, drag_quadratic=0.0),
    )
    with MujocoRacingEnv(options(num_envs=6, randomisation=True), task) as env:
        *_, before, last = [extras["position"][:, 2].double().numpy() for *_, extras in run(env, 40, thrust=0.0)]
        acting = env.get_observations()["policy"][:, 12].numpy()
        vehicles = [slot.vehicle for slot in env._slots]
    np.testing.assert_allclose(acting, 1.5 * 9.81, rtol=1e-6)
    ratio = np.array([v.reckoned_mass / v.mass for v in vehicles])
    assert np.ptp(ratio) > 0.03
    # Past the lag, 1.5 · ratio · g - g accelerates: twice the distance in the last step tells the speed.
    speed = (last - before) / 0.03
    lag_loss = 1.5 * 9.81 * ratio * 0.03 / (1 - math.exp(-1)) * math.exp(-1)
    np.testing.assert_allclose(speed, (1.5 * ratio - 1) * 9.81 * 1.2 - lag_loss, atol=0.35)
    assert np.corrcoef(speed, ratio)[0, 1] > 0.999


def test_a_crash_at_the_last_step_is_no_time_out():
    with MujocoRacingEnv(options(), quiet()) as env:
        crash = [bool(dones[0]) for _, _, dones, _ in run(env, 60, thrust=-3.0)].index(True)
    with MujocoRacingEnv(options(), quiet()) as env:
        env.episode_length_buf[:] = env.max_episode_length - crash - 1
        *_, (_, _, dones, extras) = run(env, crash + 1, thrust=-3.0)
    assert dones[0] == 1
    assert extras["crashed"][0]
    assert not extras["time_outs"][0]


def test_images_are_of_the_environments_own_track_and_pose():
    changed = options(num_envs=2, obstacles=True, episodes_per_track=1)
    with MujocoRacingEnv(changed, quiet(episode_length_s=0.3)) as env:
        steps = run(env, 15)
        tracks = env.tracks()
    compared = 0
    # Episodes of ten steps: the last five are on each environment's second track.
    for (observations, _, _, extras), (*_, following) in itertools.pairwise(steps[10:]):
        rotations = matrix_from_quaternion(extras["quaternion"].double().numpy())
        for index, track in enumerate(tracks):
            if following["fresh_image"][index]:
                solids = SolidTable.from_model(build_model(track, RACING_TASK))
                out = compiled_frame(solids, extras["position"][index].double().numpy(), rotations[index])
                close = np.abs(observations["critic"][index, 16:].numpy() * 10 - out) < 1e-3
                assert close.mean() > 0.99
                assert out.min() < 9.0
                compared += 1
    assert compared == 4
