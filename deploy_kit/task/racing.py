"""The racing task in numbers: plain data, shared by every simulator back end.

The numbers are those of MasterRacing's code. Those that its published files do not tell say "assumed"; where the
simulators go another way on purpose stands in `docs/simulator.md`, under "Deviations from MasterRacing".

World frame z up; body frame x forward, y left, z up; SI units; quaternions (w, x, y, z).
"""

import math
from dataclasses import dataclass, field

TASK_ID = "DiffLab-Quadcopter-CTBR-Racing-v0"
"""Name under which MasterRacing registered the task."""

GRAVITY = 9.81
"""Gravity of the training task, m/s²."""

DEPTH_RANGE_M = 10.0
"""Depth at which the image is clipped and by which it is divided, m."""


@dataclass(frozen=True)
class Clock:
    """Rates of physics, policy and camera.

    Attributes:
        physics_dt: physics step, s.
        decimation: physics steps a policy step.
        camera_period: least age of a frame, s, at which a policy instant captures a new one.
        action_delay: policy steps between an action and the step in which it acts.
    """

    physics_dt: float = 0.01
    decimation: int = 3
    camera_period: float = 0.04
    action_delay: int = 1

    @property
    def policy_dt(self) -> float:
        """Policy period, s."""
        return self.physics_dt * self.decimation


@dataclass(frozen=True)
class Camera:
    """Pinhole depth camera: a RealSense D435's 640 × 480 intrinsics scaled by 0.15.

    MasterRacing mounts it, tilted, on a part of its own, whose place and attitude on the body stand in a vehicle file
    that is not public: `position`, and that the part is level with the body, are assumed.

    Attributes:
        width: columns.
        height: rows.
        fx: focal length along columns, pixels.
        fy: focal length along rows, pixels.
        cx: optical centre, column, pixels.
        cy: optical centre, row, pixels.
        position: optical centre in the body frame, m.
        pitch_up_deg: elevation of the optical axis above body x, degrees.
        max_range: depth at which the image is clipped and by which it is divided, m.
    """

    width: int = 96
    height: int = 72
    fx: float = 58.344
    fy: float = 58.344
    cx: float = 47.556
    cy: float = 36.299
    position: tuple[float, float, float] = (0.04, 0.0, 0.0)
    pitch_up_deg: float = 15.06
    max_range: float = DEPTH_RANGE_M

    @property
    def tilt(self) -> float:
        """Elevation of the optical axis above body x, rad."""
        return math.radians(self.pitch_up_deg)


@dataclass(frozen=True)
class Airframe:
    """Rigid body and drag. Mass, inertia and box are assumed: MasterRacing's vehicle file is not public.

    Attributes:
        mass: nominal mass, kg.
        inertia: principal moments of the simulated body, kg·m² (the controller's own do not satisfy Ixx + Iyy ≥ Izz).
        box: half extents of the collision box, m.
        drag_linear: linear drag per mass, x y z, 1/s.
        drag_quadratic: quadratic drag per mass, x y z, 1/m.
        drag_z_factor: factor on the z component of both.
    """

    mass: float = 0.5
    inertia: tuple[float, float, float] = (0.0015, 0.002, 0.0034)
    box: tuple[float, float, float] = (0.08, 0.08, 0.03)
    drag_linear: float = 0.18
    drag_quadratic: float = 0.01
    drag_z_factor: float = 4.0


@dataclass(frozen=True)
class Controller:
    """Collective-thrust and body-rate controller.

    Attributes:
        inertia: moments that the controller assumes, kg·m².
        rate_gain: proportional gain on the body-rate error, 1/s.
        acceleration_gain: damping on the measured angular acceleration, kg·m².
        time_constant: first-order lag of thrust and of torque, s.
        max_thrust_to_weight: collective thrust over weight at tanh(action) = 1.
        max_body_rate: body rate at tanh(action) = 1, rad/s.
    """

    inertia: tuple[float, float, float] = (0.0015, 0.002, 0.004)
    rate_gain: tuple[float, float, float] = (35.0, 35.0, 35.0)
    acceleration_gain: tuple[float, float, float] = (0.0005, 0.0005, 0.0003)
    time_constant: float = 0.03
    max_thrust_to_weight: float = 3.0
    max_body_rate: float = 6.0


@dataclass(frozen=True)
class ObservationNoise:
    """Noise on the policy's copy of the observation, standard deviations.

    Attributes:
        velocity: relative, each component.
        attitude: Euler angles, rad.
        depth: relative, each pixel, before the clip.
    """

    velocity: float = 0.03
    attitude: float = 0.05
    depth: float = 0.02


@dataclass(frozen=True)
class Randomisation:
    """Ranges of the domain randomisation.

    Attributes:
        mass: added to the mass at start-up, ± kg; drawn twice, once for what the controller reckons with and once for
            the body.
        inertia: factor on each moment at start-up, beside the ratio of the body's mass to the nominal one.
        rate_gain: factor on each rate gain at start-up.
        acceleration_gain: factor on each gain of the damping at start-up.
        time_constant: factor on each time constant at start-up.
        drag_linear: upper end of what is added to the linear drag at reset, each axis, N·s/m.
        drag_quadratic: upper end of what is added to the quadratic drag at reset, each axis, N·s²/m².
        drag_z_factor: upper end of what is added to the factor on z of both at reset.
        thrust_error: standard deviation of the relative thrust error drawn at reset.
    """

    mass: float = 0.02
    inertia: tuple[float, float] = (0.9, 1.1)
    rate_gain: tuple[float, float] = (0.9, 1.1)
    acceleration_gain: tuple[float, float] = (0.9, 1.1)
    time_constant: tuple[float, float] = (0.8, 1.3)
    drag_linear: float = 0.1
    drag_quadratic: float = 0.005
    drag_z_factor: float = 0.4
    thrust_error: float = 0.01


@dataclass(frozen=True)
class StartSpread:
    """The state at reset: half widths of its uniform spread, and its height.

    Attributes:
        position: m, each axis.
        yaw: rad, around the direction from the drone to the first gate.
        tilt: roll and pitch, rad.
        velocity: linear in m/s and angular in rad/s, each world axis.
        height: middle of the spread above the track's start point, m.
    """

    position: float = 0.5
    yaw: float = 0.7
    tilt: float = 0.2
    velocity: float = 0.1
    height: float = 0.5


@dataclass(frozen=True)
class RewardWeights:
    """Weights of the reward terms, per second (see `deploy_kit.sim.rewards`).

    Attributes:
        progress: cosine between velocity and the direction to the gate.
        body_rate: norm of the commanded body rates, rad/s.
        command_change: summed squared change of the command, thrust in N.
        collision: contact; in a stage without colliders, body points inside solids.
        perception: cosine between body x and the direction to the gate.
        gate: gate passed.
        flipped: roll or pitch beyond 90°.
    """

    progress: float
    body_rate: float
    command_change: float
    collision: float
    perception: float
    gate: float
    flipped: float


@dataclass(frozen=True)
class NoiseCurriculum:
    """How an episode's result scales the gate noise of the next one.

    Attributes:
        grow_at: gates passed from which the noise grows.
        grow: factor then.
        shrink_below: gates passed below which the noise shrinks.
        shrink: factor then.
    """

    grow_at: int = 4
    grow: float = 1.01
    shrink_below: int = 3
    shrink: float = 0.98


@dataclass(frozen=True)
class Levels:
    """Tracks in levels of difficulty; each drone climbs and falls with its success.

    Attributes:
        count: levels; level k holds difficulties from k/count to (k + 1)/count.
        columns: tracks of each level.
        highest_first: highest level that a drone begins at.
        up_at: gates passed in an episode from which the next one is a level higher.
        down_below: gates passed below which it is a level lower.
        tile: side of the square of ground on which each track lies, m.
    """

    count: int = 10
    columns: int = 20
    highest_first: int = 5
    up_at: int = 3
    down_below: int = 2
    tile: float = 40.0


@dataclass(frozen=True)
class BodyPoints:
    """Points of the drone that tell a collision where it has no colliders.

    Beside the centre, the corners of a box about it, and the points halfway to them.

    Attributes:
        corner: half extents of the box, m.
        limit: points inside solids from which the drone has collided.
    """

    corner: tuple[float, float, float] = (0.0636, 0.0636, 0.025)
    limit: int = 3

    @property
    def offsets(self) -> tuple[tuple[float, float, float], ...]:
        """The 17 points in body axes, m."""
        x, y, z = self.corner
        corners = [(a * x, b * y, c * z) for a in (1, -1) for b in (1, -1) for c in (1, -1)]
        return ((0.0, 0.0, 0.0), *corners, *((a / 2, b / 2, c / 2) for a, b, c in corners))


@dataclass(frozen=True)
class Stage:
    """One training stage.

    Attributes:
        episode_length_s: time-out, s.
        gate_noise: half width of the commanded gate position's noise, m, each axis.
        curriculum: how the noise changes from episode to episode, None if it does not.
        rewards: weights.
        ends_on_crash: whether a collision, or roll or pitch beyond 90°, ends the episode.
        height_range: heights outside of which the episode ends, m, None for no limit.
        colliders: whether the drone is solid; if not, it flies through everything, and what counts as a collision is
            how many of its body points are inside (`BodyPoints`).
    """

    episode_length_s: float
    gate_noise: float
    rewards: RewardWeights
    curriculum: NoiseCurriculum | None = None
    ends_on_crash: bool = True
    height_range: tuple[float, float] | None = None
    colliders: bool = True


STAGES: tuple[Stage, ...] = (
    Stage(
        episode_length_s=6.0,
        gate_noise=0.0,
        rewards=RewardWeights(1.0, -0.02, -0.01, -50.0, 0.1, 10.0, 0.0),
        ends_on_crash=False,
        height_range=(0.0, 10.0),
        colliders=False,
    ),
    Stage(
        episode_length_s=6.0,
        gate_noise=0.1,
        rewards=RewardWeights(1.0, -0.1, -0.05, -100.0, 0.1, 20.0, -30.0),
        curriculum=NoiseCurriculum(),
    ),
    Stage(
        episode_length_s=8.0,
        gate_noise=0.5,
        rewards=RewardWeights(1.0, -0.1, -0.05, -100.0, 0.1, 20.0, 0.0),
    ),
)
"""Training stages 0, 1 and 2."""


@dataclass(frozen=True)
class Task:
    """The whole task.

    Attributes:
        clock: rates.
        camera: depth camera.
        airframe: rigid body and drag.
        controller: controller from command to wrench.
        noise: observation noise.
        randomisation: domain randomisation.
        start: state at reset.
        stages: training stages.
        levels: levels of difficulty, where they are asked for.
        body_points: what tells a collision where the drone has no colliders.
        pass_radius: distance from the gate's true centre within which a gate counts as passed, m.
        contact_force: net contact force above which the drone has crashed, N.
        gravity: m/s².
    """

    clock: Clock = field(default_factory=Clock)
    camera: Camera = field(default_factory=Camera)
    airframe: Airframe = field(default_factory=Airframe)
    controller: Controller = field(default_factory=Controller)
    noise: ObservationNoise = field(default_factory=ObservationNoise)
    randomisation: Randomisation = field(default_factory=Randomisation)
    start: StartSpread = field(default_factory=StartSpread)
    stages: tuple[Stage, ...] = STAGES
    levels: Levels = field(default_factory=Levels)
    body_points: BodyPoints = field(default_factory=BodyPoints)
    pass_radius: float = 0.35
    contact_force: float = 1.0
    gravity: float = GRAVITY


RACING_TASK = Task()
"""MasterRacing's task."""
