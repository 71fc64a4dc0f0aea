"""Dynamics, camera, crashes, resets and time-outs of the Isaac Lab back end against independent computations."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("isaaclab")

from isaaclab.sensors.ray_caster import RayCaster

from deploy_kit.sim.isaaclab.racing.actions import CtbrAction
from deploy_kit.sim.isaaclab.racing.race import ctbr_of, race_of
from deploy_kit.sim.isaaclab.racing.rays import rebuild_tree
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.rotations import matrix_from_euler, matrix_from_quaternion, quaternion_from_euler
from deploy_kit.task.racing import RACING_TASK
from helpers.isaaclab.states import CALM, HOVER, LEVEL, actions, place, state

LEVEL_ROWS = [LEVEL, LEVEL]


def quaternion_step(quaternion, rates, dt):
    """Turn (w, x, y, z) by body rates over dt."""
    angle = np.linalg.norm(rates) * dt
    axis = rates / max(np.linalg.norm(rates), 1e-12)
    w, v = np.cos(angle / 2), np.sin(angle / 2) * axis
    a, b = quaternion[0], quaternion[1:]
    return np.array([a * w - b @ v, *(a * v + w * b + np.cross(b, v))])


NOMINAL = {
    "mass": 0.5,
    "reckoned": 0.5,
    "inertia": np.array([0.0015, 0.002, 0.0034]),
    "gain": 35.0,
    "damping": np.array([0.0005, 0.0005, 0.0003]),
    "lag": 0.03,
    "drag": (np.array([0.09, 0.09, 0.36]), np.array([0.005, 0.005, 0.02])),
    "thrust": 1.0,
}


class Integrator:
    """A rigid body under the task's controller and drag in double precision, semi-implicit Euler."""

    def __init__(self, position, quaternion, velocity, rates, **vehicle):
        self.vehicle = {**NOMINAL, **vehicle}
        self.p, self.q, self.v, self.w = position.copy(), quaternion.copy(), velocity.copy(), rates.copy()
        self.lagged, self.acceleration, self.pending = np.zeros(4), np.zeros(3), np.zeros(4)

    def step(self, action):
        vehicle, assumed = self.vehicle, np.array([0.0015, 0.002, 0.004])
        m, inertia = vehicle["mass"], vehicle["inertia"]
        command = np.tanh(self.pending)
        self.pending = action
        thrust, rates = vehicle["thrust"] * (command[0] + 1) * 1.5 * vehicle["reckoned"] * 9.81, 6 * command[1:]
        torque = assumed * vehicle["gain"] * (rates - self.w) + np.cross(self.w, assumed * self.w)
        torque -= vehicle["damping"] * self.acceleration
        keep = np.exp(-0.03 / vehicle["lag"])
        self.lagged = (1 - keep) * np.array([thrust, *torque]) + keep * self.lagged
        body = matrix_from_quaternion(self.q).T @ self.v
        linear, quadratic = vehicle["drag"]
        force = -(linear * body + quadratic * body * np.abs(body)) + [0, 0, self.lagged[0]]
        for _ in range(3):
            self.v = self.v + 0.01 * (matrix_from_quaternion(self.q) @ force / m - [0, 0, 9.81])
            before = self.w
            self.w = self.w + 0.01 * (self.lagged[1:] - np.cross(self.w, inertia * self.w)) / inertia
            self.acceleration = (self.w - before) / 0.01
            self.p = self.p + 0.01 * self.v
            self.q = quaternion_step(self.q, self.w, 0.01)


def test_wrench_moves_the_drone_as_an_independent_integrator_says(calm):
    rng = np.random.default_rng(0)
    bodies = [Integrator(*values) for values in zip(*state(calm), strict=True)]
    for _ in range(40):
        action = rng.normal([HOVER, 0, 0, 0], 0.3)
        calm.step(actions(calm, *action))
        for body in bodies:
            body.step(action)
    position, _, velocity, rates = state(calm)
    assert np.linalg.norm(position - [track.start for track in calm.tracks()], axis=1).min() > 0.3, "they have moved"
    np.testing.assert_allclose(position, [body.p for body in bodies], atol=1e-3)
    np.testing.assert_allclose(velocity, [body.v for body in bodies], atol=2e-3)
    np.testing.assert_allclose(rates, [body.w for body in bodies], atol=2e-3)


def test_every_randomised_number_reaches_the_flight(build):
    """Also moments of inertia that no body has, which the engine would replace if it saw them while it is built."""
    env = build(replace(CALM, num_envs=8, seed=2, randomisation=True))
    ctbr, robot = ctbr_of(env.unwrapped), env.unwrapped.scene["robot"]
    mass, inertia = robot.data.body_mass.torch.flatten(), robot.data.body_inertia.torch.reshape(8, 3, 3)
    moments = inertia.diagonal(dim1=1, dim2=2).double().numpy()
    assert (moments[:, 0] + moments[:, 1] < moments[:, 2]).any()
    drawn = zip(
        *(
            values.double().numpy()
            for values in (
                *(mass, ctbr.reckoned_mass, ctbr.rate_gain, ctbr.acceleration_gain, ctbr.time_constant),
                *(ctbr.drag_linear, ctbr.drag_quadratic, ctbr.thrust_factor),
            )
        ),
        strict=True,
    )
    bodies = []
    for start, moment, (m, reckoned, gain, damping, lag, linear, quadratic, thrust) in zip(
        zip(*state(env), strict=True), moments, drawn, strict=True
    ):
        vehicle = {"mass": m, "reckoned": reckoned, "inertia": moment, "gain": gain, "damping": damping, "lag": lag}
        bodies.append(Integrator(*start, **vehicle, drag=(linear, quadratic), thrust=thrust))
    rng = np.random.default_rng(0)
    for _ in range(25):
        action = rng.normal([HOVER, 0, 0, 0], 0.3)
        env.step(actions(env, *action))
        for body in bodies:
            body.step(action)
    position, _, velocity, rates = state(env)
    np.testing.assert_allclose(position, [body.p for body in bodies], atol=1e-3)
    np.testing.assert_allclose(velocity, [body.v for body in bodies], atol=2e-3)
    np.testing.assert_allclose(rates, [body.w for body in bodies], atol=4e-3)


def test_an_action_acts_one_step_late(calm):
    # What the last test left on its way acts first.
    calm.step(actions(calm, 0.0, 0.0, 0.0, 0.0))
    calm.reset()
    for expected in (0.0, 6 * np.tanh(0.5), 6 * np.tanh(-0.25)):
        observations, *_ = calm.step(actions(calm, 0.0, 0.5 if expected == 0 else -0.25, 0.0, 0.0))
        np.testing.assert_allclose(observations["policy"][:, 13], expected, atol=1e-6)
    np.testing.assert_allclose(observations["policy"][:, 12], 1.5 * 9.81, rtol=1e-6)


def cast(mesh, origins, directions):
    """Return the distance to the nearest triangle along each ray (Möller and Trumbore, 1997), inf for none."""
    corners = mesh.vertices.astype(float)[mesh.faces]
    near = corners[np.linalg.norm(corners[:, 0] - origins, axis=1) < 60]
    a, ab, ac = near[:, 0], near[:, 1] - near[:, 0], near[:, 2] - near[:, 0]
    best = np.full(len(directions), np.inf)
    for k in range(len(near)):
        p = np.cross(directions, ac[k])
        determinant = p @ ab[k]
        with np.errstate(divide="ignore", invalid="ignore"):
            s = origins - a[k]
            u = (p @ s) / determinant
            q = np.cross(s, ab[k])
            v = (directions @ q) / determinant
            t = (ac[k] @ q) / determinant
            hit = (np.abs(determinant) > 1e-12) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-6)
        best = np.where(hit & (t < best), t, best)
    return best


def expected_depth(env, index):
    """Return the depth image of one drone over 10 m from its pose and the mesh alone."""
    position, quaternion, *_ = state(env)
    race = race_of(env.unwrapped)
    column, row = np.meshgrid(np.arange(96) + 0.5, np.arange(72) + 0.5)
    rays = np.stack([np.ones_like(column), -(column - 47.556) / 58.344, -(row - 36.299) / 58.344], -1).reshape(-1, 3)
    upwards = matrix_from_euler(np.array([0.0, -np.radians(15.06), 0.0]))
    rotation = matrix_from_quaternion(quaternion[index])
    origin = race.origin[index].double().numpy() + position[index] + rotation @ [0.04, 0, 0]
    # Rays of length 1 along the optical axis: the distance along one is the depth.
    return np.clip(cast(race.pool.mesh, origin, rays @ (rotation @ upwards).T), 0, 10) / 10


def assert_sees(env, index, image):
    difference = np.abs(expected_depth(env, index) - image[index, 16:].numpy())
    assert np.median(difference) < 1e-5
    assert (difference > 1e-3).mean() < 2e-3, "pixels on an edge alone may fall to either side"


def test_depth_agrees_with_an_independent_ray_caster(build):
    env = build(EnvOptions(num_envs=2, seed=5, randomisation=False))
    image = env.get_observations()["critic"]
    assert (image[:, 16:] < 0.99).float().mean() > 0.1, "something is in sight"
    for index in range(2):
        assert_sees(env, index, image)


def test_depth_is_the_same_with_another_tree_over_the_tracks(build):
    env = build(EnvOptions(num_envs=2, seed=5, randomisation=False))
    camera = env.unwrapped.scene["camera"]
    depth = camera.data.output["distance_to_image_plane"].torch
    before, (mesh,) = depth.clone(), RayCaster.meshes.values()
    for constructor in ("median", "sah"):
        rebuild_tree(env.unwrapped, constructor)
        assert [other is mesh for other in RayCaster.meshes.values()] == [False]
        depth.zero_()
        # Long enough that a new frame is due.
        camera.update(1.0, force_recompute=True)
        assert torch.equal(depth, before)


def test_first_image_after_a_reset_is_taken_from_the_new_place(build):
    env = build(EnvOptions(num_envs=2, seed=5, randomisation=False, episodes_per_track=1))
    place(env, [[0.0, 0.0, 0.02]] * 2, LEVEL_ROWS, np.zeros((2, 3)), np.zeros((2, 3)))
    observations, _, dones, extras = env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
    assert dones.tolist() == [1, 1], "drones in the ground crash"
    for index in range(2):
        assert_sees(env, index, observations["critic"])
    *_, extras = env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
    assert extras["first_step"].all()
    assert extras["fresh_image"].all()


def test_crash_and_no_crash(build):
    env = build(replace(CALM, num_envs=4, stage=2, tracks=("circular",), difficulty=0.0))
    gates, yaws = zip(*((t.gate_positions[0], t.gate_yaws[0]) for t in env.tracks()), strict=True)
    gates, forward = np.array(gates), np.array([[np.cos(yaw), np.sin(yaw), 0.0] for yaw in yaws])
    sizes = np.array([t.gate_sizes[0] for t in env.tracks()])
    sideways = np.stack([-forward[:, 1], forward[:, 0], np.zeros(4)], axis=-1)
    start = gates - 0.6 * forward
    # Drone 0 goes through the gate's middle, 1 into a post, 2 into the upper beam; 3 is put in the ground.
    start[1] += sideways[1] * (sizes[1, 0] / 2 + 0.07)
    start[2] += [0, 0, sizes[2, 1] / 2 + 0.05]
    start[3, 2] = 0.02
    place(env, start, [quaternion_from_euler(0, 0, yaw) for yaw in yaws], 5 * forward, np.zeros((4, 3)))
    crashed, passed = np.zeros(4, bool), np.zeros(4, bool)
    for step in range(6):
        _, rewards, dones, extras = env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
        live = ~crashed
        passed |= live & (extras["gates_passed"].numpy() > 0)
        crashed |= live & extras["crashed"].numpy()
        assert not extras["time_outs"].any()
        assert torch.equal(dones.bool(), extras["crashed"])
        if step == 0:
            assert crashed.tolist() == [False, False, False, True]
            assert rewards[3] < -100 * 0.03 + 1, "the collision is paid for in the step that it ends"
    assert crashed.tolist() == [False, True, True, True]
    assert passed.tolist() == [True, False, False, False]


def test_label_is_judged_before_the_reset_and_targets_move_on(build):
    env = build(replace(CALM, num_envs=2, stage=0))
    race = race_of(env.unwrapped)
    gate = np.array([track.gate_positions[0] for track in env.tracks()])
    place(env, gate + np.array([[0.0, 0.0, 0.3], [0.0, 0.0, 0.45]]), LEVEL_ROWS, np.zeros((2, 3)), np.zeros((2, 3)))
    env.unwrapped.episode_length_buf[:] = env.max_episode_length - 1
    observations, _, dones, extras = env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
    assert observations["auxiliary"][:, 0].tolist() == [1.0, 0.0]
    assert dones.tolist() == [1, 1]
    assert extras["time_outs"].all()
    assert extras["gates_passed"].tolist() == [1, 0]
    assert race.gates_passed.tolist() == [0, 0], "the new episode begins from nothing"
    place(env, gate + np.array([0.0, 0.0, 0.3]), LEVEL_ROWS, np.zeros((2, 3)), np.zeros((2, 3)))
    observations, *_ = env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
    assert race.gate.tolist() == [1, 1]
    second = np.array([track.gate_positions[1] for track in env.tracks()])
    np.testing.assert_allclose(observations["critic"][:, 6:9], second - state(env)[0], atol=0.05)
    observations, *_ = env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
    assert observations["auxiliary"].sum() == 0


def test_episode_times_out_after_its_steps(build):
    env = build(replace(CALM, num_envs=1, stage=0))
    assert env.max_episode_length == 200
    for step in range(200):
        place(env, [[0.0, 0.0, 5.0]], [LEVEL], np.zeros((1, 3)), np.zeros((1, 3)))
        _, _, dones, extras = env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
        assert dones.tolist() == [int(step == 199)], step
    assert extras["time_outs"].all()
    assert extras["episode_step"].tolist() == [199]
    assert env.unwrapped.episode_length_buf.tolist() == [0]


def test_every_second_image_is_fresh_and_stale_ones_repeat(calm):
    calm.reset()
    images, fresh = [calm.get_observations()["critic"][:, 16:].clone()], []
    for _ in range(6):
        observations, _, _, extras = calm.step(actions(calm, HOVER, 0.2, 0.1, 0.3))
        images.append(observations["critic"][:, 16:].clone())
        fresh.append(extras["fresh_image"][0].item())
    assert fresh == [True, False, True, False, True, False]
    for step in range(1, 6):
        assert torch.equal(images[step], images[step - 1]) is (not fresh[step]), step


def test_noise_has_the_tasks_deviations(build):
    env = build(EnvOptions(num_envs=8, seed=1, stage=0, obstacles=False))
    for _ in range(3):
        env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
    observations = env.get_observations()
    noisy, clean = observations["policy"], observations["critic"]
    near = clean[:, 16:] < 0.8
    relative = (noisy[:, 16:] / clean[:, 16:])[near] - 1
    assert abs(relative.std().item() - RACING_TASK.noise.depth) < 0.001
    assert abs(relative.mean().item()) < 0.001
    assert noisy[:, 16:].max() <= 1.0
    assert not torch.equal(noisy[:, 0:6], clean[:, 0:6])
    torch.testing.assert_close(noisy[:, 6:12], clean[:, 6:12])
    torch.testing.assert_close(noisy[:, 12:16], clean[:, 12:16])


def test_randomisation_stays_in_its_ranges_and_differs(build):
    env = build(EnvOptions(num_envs=16, seed=1, stage=0, obstacles=False))
    robot, ctbr = env.unwrapped.scene["robot"], ctbr_of(env.unwrapped)
    assert isinstance(ctbr, CtbrAction)
    mass = robot.data.body_mass.torch.flatten()
    inertia = robot.data.body_inertia.torch.reshape(16, 3, 3)
    factors = inertia.diagonal(dim1=1, dim2=2) / torch.tensor([0.0015, 0.002, 0.0034]) / mass[:, None] * 0.5
    drag = ctbr.drag_linear - 0.18 * ctbr.reckoned_mass[:, None]
    for values, low, high in (
        (mass, 0.48, 0.52),
        (ctbr.reckoned_mass, 0.48, 0.52),
        (factors, 0.9, 1.1),
        (ctbr.rate_gain / 35, 0.9, 1.1),
        (ctbr.acceleration_gain / torch.tensor([0.0005, 0.0005, 0.0003]), 0.9, 1.1),
        (ctbr.time_constant / 0.03, 0.8, 1.3),
        (drag[:, :2], 0.0, 0.1),
        (ctbr.drag_linear[:, 2], 0.18 * 0.48 * 4, (0.18 * 0.52 + 0.1) * 4.4),
    ):
        assert values.min() >= low - 1e-6
        assert values.max() <= high + 1e-6
        assert values.std() > (high - low) / 12
    # Draws of their own: three moments, two masses.
    assert np.abs(np.corrcoef(factors.T)[np.triu_indices(3, 1)]).max() < 0.8
    assert abs(np.corrcoef(mass, ctbr.reckoned_mass)[0, 1]) < 0.8


def test_new_tracks_come_from_the_pool_and_open_tracks_end(build):
    env = build(EnvOptions(num_envs=2, seed=2, episodes_per_track=1, track_pool=8, tracks=("zigzag",), obstacles=False))
    race = race_of(env.unwrapped)
    seen = set()
    for _ in range(12):
        env.unwrapped.episode_length_buf[:] = env.max_episode_length - 1
        *_, extras = env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
        seen |= set(extras["track_id"].tolist())
    assert seen <= {track.track_id for track in race.pool.tracks}
    assert len(seen) > 3
    race.gate[:] = 7
    last = np.array([track.gate_positions[7] for track in env.tracks()])
    exits = np.array([track.exit_point for track in env.tracks()])
    place(env, last, LEVEL_ROWS, np.zeros((2, 3)), np.zeros((2, 3)))
    np.testing.assert_allclose(race._gate_centre(1).numpy(), exits, atol=1e-4)
    *_, dones, extras = env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
    assert dones.tolist() == [1, 1]
    assert extras["time_outs"].all()


def test_same_seed_same_flight(build):
    first = []
    for _ in range(2):
        env = build(EnvOptions(num_envs=2, seed=9))
        for _ in range(4):
            observations, *_ = env.step(actions(env, HOVER, 0.1, 0.2, 0.3))
        first.append(observations["policy"].clone())
    assert torch.equal(*first)


def test_what_newton_leaves_out_at_its_start_changes_no_flight(build, monkeypatch):
    from contextlib import nullcontext

    from deploy_kit.sim.isaaclab.host import factory

    flights, contacts = [], []
    for quick in (True, False):
        if not quick:
            monkeypatch.setattr(factory, "quick_meshes", nullcontext)
        env = build(EnvOptions(num_envs=8, seed=5, track_pool=2))
        generator = torch.Generator().manual_seed(0)
        steps, crashed = [], 0
        for _ in range(50):
            observed, rewards, _, extras = env.step(torch.randn(8, 4, generator=generator) - 0.4)
            steps.append(torch.cat([observed["critic"], rewards[:, None]], dim=1).clone())
            crashed += int(extras["crashed"].sum())
        flights.append(torch.stack(steps))
        contacts.append(crashed)
    # Contacts of boxes with the mesh are among what must not change.
    assert contacts[0] == contacts[1] >= 4
    assert torch.equal(*flights)
