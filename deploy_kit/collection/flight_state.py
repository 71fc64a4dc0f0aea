"""The state of a flight between two steps, where the simulator offers its own: what `--resume` goes on from.

A simulator offers it by two methods: `snapshot() -> dict[str, numpy array]`, everything that its next step depends on
besides options, seed and task, and `restore(arrays)`, which puts one with the same options, seed and task into it.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from deploy_kit.collection.rows import RowMaker
from deploy_kit.data.snapshot import stored_count
from deploy_kit.errors import DeployKitError, TaskError
from deploy_kit.flight.rollout import Driver

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

Arrays = dict[str, npt.NDArray[Any]]

_ENV, _MEMORY, _STEPS = "simulator.", "policy.memory.", "flight.steps"

_MISFITS = (DeployKitError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What simulators, numpy and torch raise on arrays of something else."""

_WIDEST = 8
"""Bytes of a number that a snapshot's file can hold."""


class FlightState:
    """Takes and restores the state of one flight.

    Args:
        env: the simulator.
        driver: what flies it.
        maker: what numbers its episodes.
    """

    def __init__(self, env: "VecEnv", driver: Driver, maker: RowMaker) -> None:
        self._env, self._driver, self._maker = env, driver, maker

    @property
    def offered(self) -> bool:
        """Whether the simulator offers its state."""
        return callable(getattr(self._env, "snapshot", None)) and callable(getattr(self._env, "restore", None))

    def take(self, steps: int) -> Arrays:
        """Return the state of simulator and policy after so many steps; the numbering is `RowMaker`'s own.

        Raises:
            TaskError: the simulator's cannot be stored.
        """
        arrays = {f"{_ENV}{name}": _copy(name, value) for name, value in _named(self._env.snapshot())}
        for number, tensor in enumerate(getattr(self._driver, "memory", ())):
            arrays[f"{_MEMORY}{number}"] = tensor.cpu().numpy().copy()
        return arrays | {_STEPS: np.array([steps], np.int64)}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
        """Go on from a state; return after how many steps it was taken.

        Raises:
            TaskError: it does not fit.
        """
        try:
            self._maker.restore(arrays)
            names = sorted((name for name in arrays if name.startswith(_MEMORY)), key=lambda name: (len(name), name))
            memory = tuple(torch.from_numpy(arrays[name].copy()).to(self._env.device) for name in names)
            if memory or hasattr(self._driver, "remember"):
                self._driver.remember(memory)  # type: ignore[attr-defined]  # whoever has a memory takes it
            self._env.restore(
                {name.removeprefix(_ENV): array for name, array in arrays.items() if name.startswith(_ENV)}
            )
            return stored_count(arrays, _STEPS)
        except _MISFITS as error:
            raise TaskError(f"the flight's state does not fit the task ({type(error).__name__}: {error})") from error


def _named(taken: object) -> Iterable[tuple[str, object]]:
    if not isinstance(taken, Mapping) or not all(isinstance(name, str) for name in taken):
        raise TaskError(f"the task's snapshot() gave {type(taken).__name__}, not a dict of numpy arrays by name")
    return taken.items()


def _copy(name: str, value: object) -> npt.NDArray[Any]:
    """Return a copy of one array, which is written while the simulator goes on."""
    array = np.array(value, order="C") if isinstance(value, np.ndarray | np.generic) else None
    if array is None or array.dtype.kind not in "biuf" or array.dtype.itemsize > _WIDEST:
        kind = type(value).__name__ if array is None else f"an array of {array.dtype}"
        raise TaskError(
            f"the task's snapshot() gave {kind} for {name!r}; give numpy arrays of bool, integers or floats of up to "
            "64 bits"
        )
    return array
