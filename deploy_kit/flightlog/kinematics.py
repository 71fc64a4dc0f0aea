"""Do the recorded states fit together as motion? A replay cannot tell, since it is fed the same numbers.

Between two steps, a world point p seen from the body moves by dp/dt = −v − ω × p, and the world's z axis g seen from it
by dg/dt = −ω × g, with the velocity v and the body rates ω. The rates are those commanded, which the drone follows with
a lag; so only mistakes that a lag cannot explain are told: signs, order and scale of the axes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy_kit.onboard.axes import ALL_CHANGES, AxisChange

Float64 = npt.NDArray[np.float64]

MIN_STEPS = 60
"""Fewer pairs of steps do not tell."""

GATE_JUMP_M = 1.0
"""A target that moves farther between two steps, besides the drone's own motion, is another gate."""

CLEARLY = 0.7
"""Another reading of the axes is believed where it leaves less than this share of what the given one leaves."""

DISAGREES = 0.5
"""Slope of the attitude's motion over the commanded one below which its axes are doubted."""

STEADY = 0.5
"""Length of the mean of the world's z axis in the body above which the drone has an upper side."""

SCALE_BAND = 0.3
"""Relative deviation of the velocity's size from the motion's that is believed."""


@dataclass(frozen=True)
class Motion:
    """States of consecutive steps, in SI units, body axes.

    Attributes:
        seconds: (n,) between each step and the next.
        velocity: (n, 2, 3) m/s, at each step and the next.
        up: (n, 2, 3) world z axis.
        target: (n, 2, 3) vector to the gate, m.
        rates: (n, 3) body rates commanded and acting, rad/s.
    """

    seconds: Float64
    velocity: Float64
    up: Float64
    target: Float64
    rates: Float64

    def __len__(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True)
class MotionFinding:
    """What the motion says.

    Attributes:
        steps: pairs of steps that were looked at.
        problems: one line a mistake.
        up_slope: slope of the attitude's motion over the one that the rates command; near 1 where they agree.
        velocity_error: what is left of the target's motion, m/s (median).
        scale: size of the given velocity over that of the motion; NaN where too little moved.
    """

    steps: int
    problems: tuple[str, ...]
    up_slope: float
    velocity_error: float
    scale: float


def judge_motion(motion: Motion) -> MotionFinding | None:
    """Return what is wrong with the axes of velocity, attitude and target; None where too little moved to tell."""
    seconds = motion.seconds[:, None]
    moved = np.linalg.norm(np.diff(motion.target, axis=1)[:, 0], axis=1)
    own = np.linalg.norm(motion.velocity[:, 0], axis=1) * motion.seconds
    turned = np.linalg.norm(motion.rates, axis=1) * np.linalg.norm(motion.target[:, 0], axis=1) * motion.seconds
    same_gate = moved < GATE_JUMP_M + 2 * (own + turned)
    if same_gate.sum() < MIN_STEPS:
        return None
    up, target = (pair.mean(axis=1)[same_gate] for pair in (motion.up, motion.target))
    d_up, d_target = ((np.diff(pair, axis=1)[:, 0] / seconds)[same_gate] for pair in (motion.up, motion.target))
    velocity, rates = motion.velocity.mean(axis=1)[same_gate], motion.rates[same_gate]
    problems: list[str] = []

    def agreement(change: AxisChange) -> float:
        """Slope of the attitude's motion over what the rates say: 1 where they agree. Noise lessens it little."""
        implied = -np.cross(rates, change.undo(up))
        power = float((implied**2).sum())
        return float((implied * change.undo(d_up)).sum()) / power if power else 0.0

    # The turning is the same for the opposite direction; but a drone flies upright, unless it tumbles.
    steady = bool(np.linalg.norm(up.mean(axis=0)) > STEADY)
    upright = np.array([not steady or change.undo(up).mean(axis=0)[2] > 0 for change in ALL_CHANGES])
    agreements = np.array([agreement(change) for change in ALL_CHANGES])
    fitting = int(np.where(upright, agreements, -np.inf).argmax())
    doubted = not upright[0] or agreements[0] < DISAGREES
    if fitting and doubted and agreements[fitting] > DISAGREES:
        problems.append(
            f"base_orientation does not move as the body rates turn the drone; {ALL_CHANGES[fitting]} would explain it"
        )
    # What is common to all readings of the velocity is computed once for each reading of the target.
    implied = [-(change.undo(d_target) + np.cross(rates, change.undo(target))) for change in ALL_CHANGES]
    velocities = [change.undo(velocity) for change in ALL_CHANGES]
    left = np.array([[_rms(motion_of - given) for given in velocities] for motion_of in implied])
    given_left = float(left[0, 0])
    of_target, of_velocity = map(int, np.unravel_index(np.argmin(left), left.shape))
    # The simplest reading that is about as good: one term wrong, where that explains it.
    for a, b in ((0, int(left[0].argmin())), (int(left[:, 0].argmin()), 0)):
        if left[a, b] < 1.1 * left[of_target, of_velocity]:
            of_target, of_velocity = a, b
            break
    clear = left[of_target, of_velocity] < CLEARLY * given_left
    for name, index in (("target_position", of_target), ("base_lin_vel", of_velocity)):
        if clear and index:
            problems.append(f"{name} does not fit the motion of the others; {ALL_CHANGES[index]} would explain it")
    scale = _scale(velocities[of_velocity], implied[of_target])
    if not clear and np.isfinite(scale) and not 1 / (1 + SCALE_BAND) < scale < 1 + SCALE_BAND:
        problems.append(
            f"base_lin_vel is {scale:.3g} times as large as the motion towards the gate: {AxisChange(scale=scale)}, "
            "or target_position by the inverse, or another frame (world in place of body axes)"
        )
    return MotionFinding(int(same_gate.sum()), tuple(problems), float(agreements[0]), given_left, scale)


def _rms(vectors: Float64) -> float:
    # The median of squares: steps in which a gate or the pace changed do not decide.
    return float(np.sqrt(np.median((vectors**2).sum(axis=1))))


def _scale(given: Float64, implied: Float64) -> float:
    sizes = np.linalg.norm(given, axis=1), np.linalg.norm(implied, axis=1)
    fast = sizes[1] > 0.5
    if fast.sum() < MIN_STEPS // 2:
        return float("nan")
    return float(np.median(sizes[0][fast] / sizes[1][fast]))
