import dataclasses

import mujoco
import numpy as np
import pytest

from deploy_kit.sim.mujoco.physics import FleetPhysics
from deploy_kit.sim.mujoco.scene import build_model
from deploy_kit.sim.mujoco.workers import WorkerPool
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.randomisation import Start, draw_start, draw_vehicle, nominal_vehicle
from deploy_kit.sim.rotations import matrix_from_quaternion, quaternion_from_euler
from deploy_kit.sim.tracks import make_track
from deploy_kit.task.racing import RACING_TASK
from helpers.tracks import track_of

LEVEL = np.array([1.0, 0.0, 0.0, 0.0])
ZERO = np.zeros(3)
WEIGHT = 0.5 * 9.81


INERTIA = np.array(RACING_TASK.airframe.inertia)


class OneDrone:
    """A fleet of one."""

    def __init__(self, track, task, vehicle, colliders):
        self.fleet = FleetPhysics([track], [vehicle], task, colliders, WorkerPool(1))

    def __getattr__(self, name):
        return getattr(self.fleet, name)[0]

    def reset(self, *state):
        self.fleet.reset(0, Start(*state))

    def step(self, wrench):
        self.fleet.control[:] = wrench
        self.fleet.step()
        return bool(self.exceeded)


def physics(*primitives, mass=0.5, inertia=INERTIA, task=RACING_TASK, colliders=True):
    vehicle = dataclasses.replace(nominal_vehicle(task), mass=mass, inertia=inertia)
    return OneDrone(track_of(*primitives), task, vehicle, colliders)


def integrate(position, quaternion, velocity, rate, wrench, steps, mass, inertia):
    """Integrate a free rigid body in float64, semi-implicit Euler, without any engine."""
    force, torque = wrench[:3], wrench[3:]
    for _ in range(steps):
        acceleration = matrix_from_quaternion(quaternion) @ force / mass - np.array([0, 0, 9.81])
        rate_change = (torque - np.cross(rate, inertia * rate)) / inertia
        velocity = velocity + 0.01 * acceleration
        rate = rate + 0.01 * rate_change
        position = position + 0.01 * velocity
        angle = np.linalg.norm(rate) * 0.01
        turn = np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * rate / np.linalg.norm(rate)])
        w, v = quaternion[0], quaternion[1:]
        quaternion = np.concatenate([[w * turn[0] - v @ turn[1:]], w * turn[1:] + turn[0] * v + np.cross(v, turn[1:])])
    return position, quaternion, velocity, rate, rate_change


@pytest.mark.parametrize(
    ("mass", "factors"),
    # The last one has Ixx + Iyy < Izz, as randomisation may draw it.
    [(0.5, (1.0, 1.0, 1.0)), (0.52, (0.9, 1.1, 1.0)), (0.48, (0.9, 0.9, 1.1))],
)
def test_a_known_wrench_gives_a_known_motion(mass, factors):
    inertia = INERTIA * factors
    drone = physics(mass=mass, inertia=inertia)
    start = (
        np.array([1.0, 2.0, 20.0]),
        quaternion_from_euler(0.3, -0.2, 1.0),
        np.array([1.0, -2.0, 0.5]),
        np.array([1.0, 2.0, -1.5]),
    )
    wrench = np.array([0.3, -0.2, 6.0, 0.002, -0.003, 0.004])
    drone.reset(*start)
    for _ in range(10):
        assert not drone.step(wrench)
    position, quaternion, velocity, rate, acceleration = integrate(*start, wrench, 30, mass, inertia)
    np.testing.assert_allclose(drone.position, position, atol=1e-9)
    np.testing.assert_allclose(drone.quaternion, quaternion, atol=1e-9)
    np.testing.assert_allclose(drone.velocity, velocity, atol=1e-9)
    np.testing.assert_allclose(drone.angular_velocity, rate, atol=1e-9)
    np.testing.assert_allclose(drone.angular_acceleration, acceleration, atol=1e-7)


def test_the_wrench_is_held_in_the_body_frame():
    drone = physics()
    # Rolled by 90°: body z points along world -y.
    drone.reset(np.array([0.0, 0.0, 20.0]), quaternion_from_euler(np.pi / 2, 0.0, 0.0), ZERO, ZERO)
    drone.step(np.array([0.0, 0.0, 5.0, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(drone.velocity, [0.0, -0.03 * 10.0, -0.03 * 9.81], atol=1e-12)


def test_reset_forgets_the_last_wrench_and_acceleration():
    drone = physics()
    drone.reset(np.array([0.0, 0.0, 20.0]), LEVEL, ZERO, ZERO)
    drone.step(np.array([0.0, 0.0, 9.0, 0.1, 0.0, 0.0]))
    drone.reset(np.array([0.0, 0.0, 20.0]), LEVEL, ZERO, ZERO)
    np.testing.assert_array_equal(drone.angular_acceleration, 0.0)
    drone.step(np.zeros(6))
    np.testing.assert_allclose(drone.velocity, [0.0, 0.0, -0.03 * 9.81], atol=1e-12)
    np.testing.assert_allclose(drone.angular_velocity, 0.0, atol=1e-15)


@pytest.mark.parametrize(
    ("limit", "load", "crashed"),
    [(1.0, 0.5, False), (1.0, 0.9, False), (1.0, 1.1, True), (1.0, 4.0, True), (2.0, 1.9, False), (2.0, 2.1, True)],
)
def test_contact_counts_above_the_limit(limit, load, crashed):
    drone = physics(task=dataclasses.replace(RACING_TASK, contact_force=limit))
    drone.reset(np.array([0.0, 0.0, 0.0295]), LEVEL, ZERO, ZERO)
    wrench = np.array([0.0, 0.0, WEIGHT - load, 0.0, 0.0, 0.0])
    for _ in range(60):
        drone.step(wrench)
    assert drone.step(wrench) is crashed


def test_contact_in_any_of_the_physics_steps_counts():
    # 1 m/s towards a wall 3 mm away, pushed back by 60 m/s²: 4 mm after one physics step, at most 2 mm after two.
    wall = Primitive("box", (0.5, 5.0, 5.0), (0.583, 0.0, 20.0))
    drone = physics(wall)
    drone.reset(np.array([0.0, 0.0, 20.0]), LEVEL, np.array([1.0, 0.0, 0.0]), ZERO)
    assert drone.step(np.array([-30.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    assert not drone.contact_force[-1].any()


@pytest.mark.parametrize(
    "primitive",
    [
        Primitive("box", (0.5, 0.5, 0.5), (0.0, 0.0, 0.5)),
        Primitive("sphere", (0.5,), (0.0, 0.0, 0.5)),
        Primitive("cylinder", (0.3, 0.5), (0.0, 0.0, 0.5)),
        Primitive("capsule", (0.3, 0.2), (0.0, 0.0, 0.5)),
    ],
    ids=lambda primitive: primitive.kind,
)
def test_a_fall_onto_every_solid_ends_on_its_surface(primitive):
    # 1 m falls in 0.45 s, so in the 16th policy step.
    drone = physics(primitive)
    drone.reset(np.array([0.0, 0.0, 2.03]), LEVEL, ZERO, ZERO)
    hits = [drone.step(np.zeros(6)) for _ in range(17)]
    assert hits.index(True) in (15, 16)


def test_the_collision_box_is_the_tasks():
    box = np.array(RACING_TASK.airframe.box)
    for axis, sign in ((0, 1), (1, -1)):
        for gap, touching in ((-0.002, True), (0.002, False)):
            centre, extent = np.array([0.0, 0.0, 20.0]), np.full(3, 2.0)
            centre[axis] = sign * (box[axis] + gap + 2.0)
            drone = physics(Primitive("box", tuple(extent), tuple(centre)))
            drone.reset(np.array([0.0, 0.0, 20.0]), LEVEL, ZERO, ZERO)
            assert drone.step(np.array([0.0, 0.0, WEIGHT, 0.0, 0.0, 0.0])) is touching


def test_without_colliders_the_drone_falls_through_solids_and_ground():
    drone = physics(Primitive("box", (0.5, 0.5, 0.5), (0.0, 0.0, 0.5)), colliders=False)
    drone.reset(np.array([0.0, 0.0, 1.03]), LEVEL, ZERO, ZERO)
    assert not any(drone.step(np.zeros(6)) for _ in range(40))
    # Free fall over 1.2 s, semi-implicit Euler.
    assert drone.position[2] == pytest.approx(1.03 - 9.81 * 0.01**2 * 120 * 121 / 2)


def test_gravity_and_step_come_from_the_task():
    task = dataclasses.replace(RACING_TASK, gravity=2.0, clock=dataclasses.replace(RACING_TASK.clock, decimation=5))
    drone = physics(task=task)
    drone.reset(np.array([0.0, 0.0, 20.0]), LEVEL, ZERO, ZERO)
    drone.step(np.zeros(6))
    np.testing.assert_allclose(drone.velocity, [0.0, 0.0, -0.05 * 2.0], atol=1e-12)


def race(fleet, tracks, wrenches):
    """Fly from the same starts and return all that a fleet tells."""
    told = []
    for index, track in enumerate(tracks):
        fleet.reset(index, draw_start(np.random.default_rng(index), track, RACING_TASK))
    for wrench in wrenches:
        fleet.control[:] = wrench[:, None]
        fleet.step()
        parts = (fleet.position, fleet.quaternion, fleet.velocity, fleet.angular_velocity, fleet.angular_acceleration)
        told.append(
            np.concatenate([fleet.exceeded[:, None], *parts, fleet.contact_force.reshape(len(tracks), -1)], axis=1)
        )
    return np.array(told)


@pytest.fixture(scope="module")
def crowd():
    """Tracks of different size, one without solids, with drones that fall, hit things and slide."""
    rng, n = np.random.default_rng(1), 6
    tracks = [*(make_track(seed) for seed in range(n - 1)), track_of()]
    vehicles = [draw_vehicle(np.random.default_rng(index), RACING_TASK) for index in range(n)]
    wrenches = rng.normal(0, [1.0, 1.0, 2.0, 3e-4, 3e-4, 3e-4], (60, n, 6))
    wrenches += np.array([0.5, 0.0, 3.5, 0.0, 0.0, 0.0])
    return tracks, vehicles, wrenches


def test_a_fleet_is_mujocos_own_simulation_of_each_drone_bit_by_bit(crowd):
    tracks, vehicles, wrenches = crowd
    fleet = FleetPhysics(tracks, vehicles, RACING_TASK, True, WorkerPool(1))
    told = race(fleet, tracks, wrenches)
    for index, (track, vehicle) in enumerate(zip(tracks, vehicles, strict=True)):
        # Without the spheres that fill the fleet's models up.
        model = build_model(track, RACING_TASK, vehicle)
        data, start = mujoco.MjData(model), draw_start(np.random.default_rng(index), track, RACING_TASK)
        data.qpos[:], data.qvel[:] = (*start.position, *start.quaternion), (*start.velocity, *start.angular_velocity)
        for row, wrench in zip(told[:, index], wrenches[:, index], strict=True):
            data.ctrl[:] = wrench
            # Rollouts begin the search for contact forces from nothing.
            data.qacc_warmstart[:] = 0
            forces = []
            for _ in range(3):
                mujoco.mj_step(model, data)
                forces.append(data.qfrc_constraint[:3].copy())
            np.testing.assert_array_equal(row[1:14], np.concatenate([data.qpos, data.qvel]))
            np.testing.assert_allclose(row[14:17], data.qacc[3:], rtol=1e-9, atol=1e-9)
            # The sensor tells the force on the other body.
            np.testing.assert_allclose(row[17:], -np.ravel(forces), rtol=1e-9, atol=1e-9)
            assert row[0] == (np.linalg.norm(forces, axis=1) > RACING_TASK.contact_force).any()
    assert told[:, :, 0].any(axis=0).sum() >= 3


def test_neither_threads_nor_other_tracks_change_a_flight(crowd):
    tracks, vehicles, wrenches = crowd
    alone = race(FleetPhysics(tracks, vehicles, RACING_TASK, True, WorkerPool(1)), tracks, wrenches)
    workers = WorkerPool(3)
    fleet = FleetPhysics(tracks, vehicles, RACING_TASK, True, workers)
    np.testing.assert_array_equal(race(fleet, tracks, wrenches), alone)
    # One drone flies on another track, which has more solids than there was room for, and back.
    larger = dataclasses.replace(tracks[0], primitives=tracks[0].primitives + tracks[1].primitives)
    fleet.place(2, larger)
    others = race(fleet, [*tracks[:2], larger, *tracks[3:]], wrenches)
    kept = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(others[:, kept], alone[:, kept])
    fleet.place(2, tracks[2])
    np.testing.assert_array_equal(race(fleet, tracks, wrenches), alone)
    workers.close()
