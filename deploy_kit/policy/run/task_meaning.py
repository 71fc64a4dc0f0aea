"""What the numbers of any policy's observations and actions mean: plain data, each with its source; unknown is None."""

from dataclasses import dataclass

INTERFACE_FILE = "params/interface.yaml"
"""How messages and sources call the task's own description of its interface."""


@dataclass(frozen=True)
class TermMeaning:
    """One slice [start, stop) of an observation group; what is not known is null.

    The observation holds ``clip(value + offset) * scale`` of a value in `unit`; with a history, that of several steps.

    Attributes:
        name: the task's name of the term.
        start: first index within the group.
        stop: one past the last index.
        history: steps that the slice holds, the oldest first and the present one last, each of equal size. At the
            start of an episode all of them are the first one.
        quantity: what the numbers are; "last_action" is the action of the step before, as the network gave it.
        unit: SI unit, "1" where dimensionless.
        frame: coordinate frame.
        description: one line for a human.
        components: names of the numbers of one step, in order.
        joints: whether the components are joints, so that a robot with another order is remapped by their names.
        offset: per component, added before `clip`; null for none, and where nothing is known.
        clip: smallest and largest value, before `scale`; null for none, and where nothing is known.
        scale: per component; null for none, and where nothing is known.
        low: smallest value to be expected, in `unit`, per component.
        high: largest value to be expected.
        source: where order, size and meaning come from.
    """

    name: str
    start: int
    stop: int
    history: int
    quantity: str | None
    unit: str | None
    frame: str | None
    description: str | None
    components: tuple[str, ...] | None
    joints: bool
    offset: tuple[float, ...] | None
    clip: tuple[float, float] | None
    scale: tuple[float, ...] | None
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    source: str | None

    @property
    def size(self) -> int:
        """Numbers of one step."""
        return (self.stop - self.start) // self.history


@dataclass(frozen=True)
class GroupMeaning:
    """The terms of an observation group.

    Attributes:
        name: the group's name.
        terms: slices of the group, in order, without gaps; none for an image.
    """

    name: str
    terms: tuple[TermMeaning, ...]


@dataclass(frozen=True)
class ActionMeaning:
    """From the network's actions to commands: ``clip(clamp(action, limit) * scale + offset)``; unknown is null.

    Attributes:
        names: name of each action, in order: its joint's name where it commands a joint.
        joints: whether the names are joints, so that a robot with another order is remapped by their names.
        quantity: what the commands are.
        unit: SI unit of the commands.
        limit: largest size of an action, to which larger ones are cut first; null for none, and where it is unknown.
        limit_source: where that comes from; null where it is unknown.
        scale: per action.
        offset: per action.
        clip: smallest and largest command, per action; null for none, and where nothing is known.
        default_positions: joint positions of the robot's initial pose, rad or m.
        stiffness: position gain of each joint's drive, N·m/rad or N/m.
        damping: velocity gain of each joint's drive, N·m·s/rad or N·s/m.
        source: where the rest comes from.
    """

    names: tuple[str, ...] | None
    joints: bool
    quantity: str | None
    unit: str | None
    limit: float | None
    limit_source: str | None
    scale: tuple[float, ...] | None
    offset: tuple[float, ...] | None
    clip: tuple[tuple[float, float], ...] | None
    default_positions: tuple[float, ...] | None
    stiffness: tuple[float, ...] | None
    damping: tuple[float, ...] | None
    source: str | None


@dataclass(frozen=True)
class SourcedNumber:
    """A number with where it comes from.

    Attributes:
        value: the number.
        unit: its unit.
        source: the file of the run that says it.
    """

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class TaskTiming:
    """The task's clock; unknown is null.

    Attributes:
        policy_period_s: time between two inferences.
        physics_period_s: duration of a step of the physics.
        decimation: steps of the physics between two inferences.
        action_latency_steps: policy steps between computing an action and its acting, besides the step itself.
    """

    policy_period_s: SourcedNumber | None
    physics_period_s: SourcedNumber | None
    decimation: SourcedNumber | None
    action_latency_steps: SourcedNumber | None


@dataclass(frozen=True)
class TaskMeaning:
    """What goes into a policy and what its actions do, as the run's files tell.

    Attributes:
        groups: the observation groups that the policy reads, in its order.
        actions: what the actions do.
        timing: the task's clock.
    """

    groups: tuple[GroupMeaning, ...]
    actions: ActionMeaning
    timing: TaskTiming
