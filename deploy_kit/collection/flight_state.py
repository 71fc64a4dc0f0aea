"""The state of a flight between two steps, where the simulator offers its own: what `--resume` goes on from.

A simulator offers it by two methods: `snapshot() -> dict[str, numpy array]`, everything that its next step depends on
besides options, seed and task, and `restore(arrays)`, which puts one with the same options, seed and task into it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from deploy_kit.collection.rows import RowMaker
from deploy_kit.errors import DeployKitError, TaskError
from deploy_kit.flight.rollout import Driver

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

Arrays = dict[str, npt.NDArray[Any]]

_ENV, _MEMORY, _STEPS = "simulator.", "policy.memory.", "flight.steps"


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
        """Return the state of simulator and policy after so many steps; the numbering is `RowMaker`'s own."""
        arrays = {f"{_ENV}{name}": array for name, array in self._env.snapshot().items()}
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
            return int(arrays[_STEPS][0])
        except (DeployKitError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise TaskError(f"the flight's state does not fit the task ({type(error).__name__}: {error})") from error
