"""What every learner of the gate head offers."""

from typing import Any, Protocol

from deploy_kit.arrays import FloatArray


class Learner(Protocol):
    """Trains a linear head on blocks of signed rows (see `ShuffledRows`)."""

    @property
    def vector(self) -> FloatArray:
        """(F + 1,) weights and bias."""

    def learn(self, block: Any) -> float:
        """Train on a block, batch by batch; return the sum of its rows' losses."""

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes: arrays and numbers."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from an earlier `state`."""
