"""Inputs that the artifacts of any policy are run on: whole episodes with resets inside, and single steps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.policy_contract import PolicyContract
from deploy_kit.bundle.policy_reader import GoldenSequences
from deploy_kit.bundle.policy_runners import Groups, PolicyReference, State, StepRunner
from deploy_kit.bundle.runners import Float32, Outputs
from deploy_kit.policy.protocol import PolicySpec

Usual = dict[str, tuple[Float32, Float32]]
"""Mean and deviation of the numbers of each flat group, where the policy's normaliser tells them."""

HUGE: tuple[float, ...] = (1e3, 1e4, 1e6)
"""Magnitudes far outside what the policy was trained on."""

_RESETS = 0.08
_MEMORY = 0.8


@dataclass(frozen=True)
class Episodes:
    """Sequences to run: T steps of N environments side by side, each with a state of its own.

    Attributes:
        name: name of the set.
        described: what it is, in words.
        groups: (T, N, …) of each observation group.
        reset: (T, N), where an episode begins, so that the state is zero before that step.
    """

    name: str
    described: str
    groups: dict[str, Float32]
    reset: npt.NDArray[np.bool_]

    def where(self, row: int) -> str:
        """Return a row of all steps in words."""
        step, env = divmod(row, self.reset.shape[1])
        return f"step {step} of {self.name} sequence {env}"


@dataclass(frozen=True)
class Steps:
    """Single steps from given states.

    Attributes:
        name: name of the set.
        described: what it is, in words.
        groups: (n, …) of each observation group.
        state: (layers, n, hidden) of each state tensor.
        where: puts a row into words.
        row_scale: (n, 1) what one unit of output is in each row, None for 1.
    """

    name: str
    described: str
    groups: dict[str, Float32]
    state: State
    where: Callable[[int], str]
    row_scale: npt.NDArray[np.floating] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.groups.values())))


def golden_episodes(golden: GoldenSequences) -> Episodes:
    """Return a bundle's golden sequences."""
    return Episodes("golden", f"{golden.source} golden sequences, with resets inside", golden.observation, golden.reset)


def drawn_episodes(spec: PolicySpec, usual: Usual, steps: int, count: int, seed: int) -> Episodes:
    """Return sequences that change slowly, with resets inside.

    Args:
        spec: the policy's groups.
        usual: what the numbers usually are.
        steps: length of each.
        count: how many side by side.
        seed: seed of the draw.
    """
    rng = np.random.default_rng(seed)
    groups = {}
    for group in spec.groups:
        noise = rng.standard_normal((steps, count, *group.shape))
        for step in range(1, steps):
            noise[step] = _MEMORY * noise[step - 1] + np.sqrt(1 - _MEMORY**2) * noise[step]
        groups[group.name] = _scaled(group.name, group.shape, noise, usual)
    reset = rng.random((steps, count)) < _RESETS
    reset[0] = True
    return Episodes("sequences", f"{count} sequences of {steps} steps with resets inside, seed {seed}", groups, reset)


def random_steps(spec: PolicySpec, usual: Usual, rows: int, seed: int) -> Steps:
    """Return steps from random states.

    Args:
        spec: the policy's groups and state.
        usual: what the numbers usually are.
        rows: how many.
        seed: seed of the draw.
    """
    rng = np.random.default_rng(seed)
    groups = {
        group.name: _scaled(group.name, group.shape, 2.0 * rng.standard_normal((rows, *group.shape)), usual)
        for group in spec.groups
    }
    state = tuple(
        # A hidden state lies within ±1; a cell state, the second tensor, has no bound.
        (rng.uniform(-1, 1, (item.layers, rows, item.hidden)) * (1.0 if index == 0 else 3.0)).astype(np.float32)
        for index, item in enumerate(spec.state)
    )
    described = f"random inputs{' from random states' if state else ''}, seed {seed}"
    return Steps("random", described, groups, state, lambda row: f"random input {row}")


def extreme_steps(spec: PolicySpec, usual: Usual, seed: int) -> Steps:
    """Return constants, single numbers that stand out, huge values and denormals, from a zero state.

    Args:
        spec: the policy's groups and state.
        usual: what the numbers usually are.
        seed: seed of the signs of the huge values.
    """
    rng = np.random.default_rng(seed)
    named: list[tuple[str, dict[str, Float32], float]] = []

    def add(name: str, value: Callable[[tuple[int, ...]], npt.ArrayLike], scale: float = 1.0) -> None:
        row = {g.name: np.broadcast_to(np.asarray(value(g.shape), np.float32), g.shape).copy() for g in spec.groups}
        named.append((name, row, scale))

    for constant in (0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40):
        add(f"all {constant:g}", partial(np.full, fill_value=constant))
    for size in HUGE:
        for sign in (1.0, -1.0):
            add(f"all {sign * size:g}", partial(np.full, fill_value=sign * size), size)
        add(f"±{size:g}", partial(rng.choice, [-size, size]), size)
    for group in spec.groups:
        if len(group.shape) != 1:
            continue
        mean, deviation = usual.get(group.name, (np.zeros(1, np.float32), np.ones(1, np.float32)))
        for index in range(group.shape[0]):
            row = {g.name: np.zeros(g.shape, np.float32) for g in spec.groups}
            row[group.name] += mean
            row[group.name][index] += 10.0 * np.broadcast_to(deviation, group.shape)[index]
            named.append((f"{group.name}[{index}] ten deviations off", row, 10.0))
    rows = len(named)
    groups = {g.name: np.stack([row[g.name] for _, row, _ in named]) for g in spec.groups}
    state = tuple(np.zeros((item.layers, rows, item.hidden), np.float32) for item in spec.state)
    smallest = min((float(np.min(deviation)) for _, deviation in usual.values()), default=1.0)
    scale = np.array([[size / min(1.0, max(smallest, 1e-2))] for *_, size in named])
    return Steps(
        "extreme",
        "constants, single numbers far off, values to 1e6, denormals",
        groups,
        state,
        lambda row: named[row][0],
        np.maximum(1.0, scale),
    )


def _scaled(name: str, shape: tuple[int, ...], noise: npt.NDArray[np.float64], usual: Usual) -> Float32:
    if len(shape) == 3:
        return np.clip(0.5 + 0.25 * noise, 0.0, 1.0).astype(np.float32)
    mean, deviation = usual.get(name, (np.float32(0), np.float32(1)))
    return np.asarray(mean + deviation * noise, np.float32)


def at_reset(state: State, reset: npt.NDArray[np.bool_]) -> State:
    """Return a state (layers, N, hidden) with zeros where an episode begins, (N,)."""
    return tuple(np.where(reset[None, :, None], np.float32(0), tensor) for tensor in state)


def run_episodes(
    runner: StepRunner, episodes: Episodes, state_outputs: tuple[str, ...], start: State, *, reset: bool = True
) -> list[Outputs]:
    """Return an artifact's outputs at each step, its own state carried from step to step.

    Args:
        runner: the artifact.
        episodes: what to run.
        state_outputs: names of the next state, in order.
        start: a state of zeros, (layers, N, hidden) each.
        reset: whether the state is reset where an episode begins; the fault that this shows is a common one.
    """
    state, given = start, []
    for step in range(len(episodes.reset)):
        if reset or step == 0:
            state = at_reset(state, episodes.reset[step])
        outputs = runner({name: values[step] for name, values in episodes.groups.items()}, state)
        state = tuple(np.asarray(outputs[name], np.float32) for name in state_outputs)
        given.append(outputs)
    return given


def states_before(reference: PolicyReference, episodes: Episodes) -> State:
    """Return the checkpoint's state before each step of some episodes, (layers, T · N, hidden) each."""
    start = reference.initial_state(episodes.reset.shape[1])
    if not start:
        return ()
    given = run_episodes(reference, episodes, reference.state_outputs, start)
    before = [start, *(tuple(outputs[name] for name in reference.state_outputs) for outputs in given[:-1])]
    kept = [at_reset(state, episodes.reset[step]) for step, state in enumerate(before)]
    return tuple(np.concatenate(tensors, axis=1) for tensors in zip(*kept, strict=True))


def steps_of(reference: PolicyReference, episodes: Episodes) -> Steps:
    """Return the steps of some episodes one by one, each from the checkpoint's own state."""
    groups: Groups = {name: values.reshape(-1, *values.shape[2:]) for name, values in episodes.groups.items()}
    return Steps(
        f"{episodes.name}-steps",
        f"{episodes.described}, step by step from the checkpoint's states",
        dict(groups),
        states_before(reference, episodes),
        episodes.where,
    )


def state_outputs_of(contract: PolicyContract) -> tuple[str, ...]:
    """Return the names of the next state, in order."""
    return tuple(item.output for item in contract.state)
