"""The racing task's tracks in numbers: gates, starts and obstacles. `d` is a track's difficulty, 0 to 1.

MasterRacing's numbers. Lengths are in m and angles in rad; a pair is the range of a uniform draw.
"""

import math
from dataclasses import dataclass
from typing import Literal

TrackKind = Literal["circular", "zigzag", "ellipse"]

SolidKind = Literal["box", "sphere", "cylinder", "capsule"]

Range = tuple[float, float]

TRACK_PROPORTIONS: dict[TrackKind, float] = {"circular": 0.3, "zigzag": 0.3, "ellipse": 0.4}
"""Share of each track kind in training."""

NUM_GATES = 8
GATE_HEIGHTS: Range = (0.8, 2.0)
"""Heights to which gate centres are clipped, m."""

GATE_SIZE = 1.2
"""Inner width and height at d = 0, m."""
GATE_SIZE_FALL = 0.4
"""How much smaller both are at d = 1, m."""
GATE_SIZE_SPREAD = 0.05
GATE_DEPTH = 0.03
"""Extent of the frame along the direction of flight at d = 0, and how much larger it is at d = 1, m."""
GATE_DEPTH_SPREAD = 0.2
GATE_YAW_SPREAD = math.radians(30.0)
"""Half width of the yaw noise at d = 1, rad."""
GATE_SPREAD: Range = (0.2, 1.0)
"""Half width of the noise on gate positions of closed tracks at d = 0 and d = 1, m."""

CIRCLE_RADIUS: Range = (5.0, 8.0)
ELLIPSE_SPACING = 5.0
ELLIPSE_LONG: Range = (3.1414, 3.1414 + 1.6586)
"""Length of the long axis at d = 0 and d = 1, over the spacing."""
ELLIPSE_SHORT: Range = (1.414, 1.414 - 0.614)
"""Length of the short axis at d = 0 and d = 1, over the spacing."""
ZIGZAG_LENGTH = 35.0
ZIGZAG_SIDEWAYS: Range = (1.0, 4.0)
"""Half width of the last gate's shift across the line at d = 0 and d = 1, m; the others' grow with the way."""
ZIGZAG_UPWARDS: Range = (0.1, 1.0)

START_HEIGHT: Range = (0.7, 1.5)
"""Height of the start point, m."""


@dataclass(frozen=True)
class TrackNumbers:
    """What differs between the kinds.

    Attributes:
        frame_width: width of the gates' frames, m.
        start: distance of the start point from the gate that it is measured from, m.
        sideways: half width of the obstacles' spread across a segment, m; on circular tracks per metre of radius.
        small_along: half width of the small solids' spread along a segment, over half of the segment.
        small_count: least and largest number of small solids on a segment.
        clearance: distance of obstacles from the two gates of their segment, centre to centre, m; 0 for none.
    """

    frame_width: Range
    start: Range
    sideways: float
    small_along: float
    small_count: tuple[int, int]
    clearance: float


TRACK_NUMBERS: dict[TrackKind, TrackNumbers] = {
    "circular": TrackNumbers((0.15, 0.25), (2.0, 4.0), 0.5, 0.6, (1, 4), 0.0),
    "ellipse": TrackNumbers((0.15, 0.22), (2.0, 3.0), 2.5, 0.6, (1, 2), 0.0),
    "zigzag": TrackNumbers((0.15, 0.25), (2.0, 3.0), 3.6, 0.5, (1, 4), 1.5),
}

OBSTACLE_ALONG = 0.6
"""Half width of the other obstacles' spread along a segment, over half of the segment."""
OBSTACLE_HEIGHT: Range = (0.5, 3.0)
"""Height of the centres of walls and floating solids, m."""
CROWD_RADIUS = 8.0
"""Radius of a circular track that has as many obstacles as the other kinds, m; their number grows with the radius."""
WALL_COUNT: Range = (1.0, 4.0)
"""Walls on a segment at d = 0 and d = 1, before the fraction is cut off; floating solids likewise."""
STANDING_COUNT: Range = (1.0, 2.0)

WALL_SIDE: Range = (0.4, 1.0)
WALL_THICKNESS: Range = (0.04, 0.08)
FLOATING_SHAPES: dict[SolidKind, float] = {"box": 0.2, "cylinder": 0.2, "sphere": 0.2, "capsule": 0.4}
"""Share of each shape."""
FLOATING_SIDE: Range = (0.1, 0.5)
FLOATING_RADIUS: Range = (0.1, 0.3)
FLOATING_LENGTH: Range = (0.2, 0.6)
"""Height of cylinders, and distance between the centres of a capsule's caps, m."""
STANDING_SHAPES: dict[SolidKind, float] = {"box": 0.5, "cylinder": 0.5}
STANDING_HEIGHT: Range = (1.0, 3.0)
STANDING_SIDE: Range = (0.05, 1.0)
STANDING_RADIUS: Range = (0.025, 0.5)
SMALL_SHAPES: dict[SolidKind, float] = {"box": 0.33, "cylinder": 0.33, "sphere": 0.34}
SMALL_SIDE: Range = (0.1, 1.5)
SMALL_RADIUS: Range = (0.025, 0.5)
SMALL_LENGTH: Range = (0.1, 1.0)
SMALL_BALL: Range = (0.05, 0.5)
SMALL_LIFT: Range = (-0.2, 0.5)
"""How far small solids are lifted off the ground or sunk into it, m."""


def between(ends: Range, d: float) -> float:
    """Return what lies at `d` between the value at d = 0 and the one at d = 1."""
    return ends[0] + (ends[1] - ends[0]) * d
