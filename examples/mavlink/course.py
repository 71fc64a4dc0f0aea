"""The gates that are flown through, in order."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploy_kit.onboard.frames import enu_from_ned

Float64 = npt.NDArray[np.float64]


class Course:
    """The gates in order.

    Args:
        path: JSON with `frame` ("ENU" or "NED", the axes of the autopilot's local frame), `gates` (their centres, m)
            and either `closed` (true: the first gate follows the last) or `exit` (where to look after the last).

    Raises:
        ValueError: the file does not say that.
    """

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        turn = {"ENU": np.asarray, "NED": enu_from_ned}[content["frame"]]
        self._gates = turn(np.array(content["gates"], np.float64))
        self.closed = bool(content.get("closed", False))
        self._exit = None if self.closed else turn(np.array(content["exit"], np.float64))
        if self._gates.ndim != 2 or self._gates.shape[1] != 3 or not np.isfinite(self._gates).all():
            raise ValueError(f"{path}: gates must be a list of three finite numbers each")
        self.passed = 0

    @property
    def finished(self) -> bool:
        """Whether no gate is left."""
        return not self.closed and self.passed >= len(self._gates)

    def targets(self) -> tuple[Float64, Float64]:
        """Return the current gate and the one after it, east-north-up, m."""
        count = len(self._gates)
        if self._exit is not None and self.passed + 1 >= count:
            return self._gates[min(self.passed, count - 1)], self._exit
        return self._gates[self.passed % count], self._gates[(self.passed + 1) % count]
