"""Any policy's ONNX graph with inputs and outputs bound to buffers of its own, its memory carried from step to step."""

import math

import numpy as np
import numpy.typing as npt

from .binding import BoundSession
from .contract import FloatArray
from .faults import Fault, OnboardFault
from .graph import RUNTIME_ERRORS, open_session
from .options import OnboardOptions
from .policy_contract import PolicyOnboardContract


class PolicyGraph:
    """The graph, open on one execution provider.

    Args:
        model: the ONNX file.
        contract: what it must look like.
        options: how to run it; another provider running instead is a fault.

    Attributes:
        groups: write each observation group here before `run`.
        state: (numbers,) all groups one after another, the same memory as `groups`.
        image: (1, 1) zero, what a flight log records in place of a depth image.
        action: (n,) action of the last `run`.
        logit: (1,) head's logit of the last `run`, None without one.
        providers: execution providers that onnxruntime really uses.

    Raises:
        OnboardFault: onnxruntime refuses the graph or would run it elsewhere, or it is not the contract's.
    """

    def __init__(self, model: bytes, contract: PolicyOnboardContract, options: OnboardOptions) -> None:
        session = open_session(model, contract.text, contract.inputs, contract.outputs, options)
        sizes = {name: math.prod(shape) for name, shape in contract.groups.items()}
        self.state: FloatArray = np.zeros(sum(sizes.values()), np.float32)
        parts = np.split(self.state, np.cumsum(list(sizes.values()))[:-1])
        self.groups: dict[str, FloatArray] = {
            name: part.reshape(shape) for (name, shape), part in zip(contract.groups.items(), parts, strict=True)
        }
        self.image: FloatArray = np.zeros((1, 1), np.float32)
        self._memory: list[FloatArray] = [
            np.zeros((layers, 1, hidden), np.float32) for layers, hidden in contract.state
        ]
        self._next: list[FloatArray] = [np.zeros_like(array) for array in self._memory]
        action = np.zeros((1, contract.num_actions), np.float32)
        logit = np.zeros((1, 1), np.float32) if contract.head else None
        self.action: FloatArray = action[0]
        self.logit: FloatArray | None = None if logit is None else logit[0]
        inputs = [*(group[None] for group in self.groups.values()), *self._memory]
        outputs = [action, *([] if logit is None else [logit]), *self._next]
        self.providers: tuple[str, ...] = tuple(session.get_providers())
        try:
            self._bound = BoundSession(
                session,
                zip(contract.inputs, inputs, strict=True),
                zip(contract.outputs, outputs, strict=True),
            )
        except RUNTIME_ERRORS as error:
            raise OnboardFault(
                Fault.CONTRACT_INVALID, f"policy.onnx does not take the contract's shapes: {error}"
            ) from error

    def reset(self) -> None:
        """Let the memory begin anew, with zeros."""
        for array in self._memory:
            array[:] = 0.0

    def run(self) -> None:
        """Run the graph on what stands in `groups` and in the memory, which `keep` then renews.

        Raises:
            OnboardFault: onnxruntime fails.
        """
        try:
            self._bound.run()
        except RUNTIME_ERRORS as error:
            raise OnboardFault(Fault.RUNTIME, f"onnxruntime failed in flight: {error}") from error

    def is_finite(self) -> bool:
        """Return whether all outputs of the last `run` are finite."""
        outputs = [self.action, *([] if self.logit is None else [self.logit]), *self._next]
        return all(bool(np.isfinite(array).all()) for array in outputs)

    def keep(self) -> None:
        """Take over the memory that the last `run` left."""
        for array, following in zip(self._memory, self._next):  # noqa: B905 # made together
            array[:] = following


def replay_sequences(
    graph: PolicyGraph, contract: PolicyOnboardContract, golden: dict[str, npt.NDArray[np.generic]], tolerance: float
) -> float:
    """Run all golden sequences, one step at a time as in flight; return the worst as a share of the tolerance.

    Raises:
        OnboardFault: one is out of it.
    """
    reset = golden["reset"]
    worst, where = 0.0, (0, 0)
    for episode in range(reset.shape[1]):
        for step in range(reset.shape[0]):
            if reset[step, episode]:
                graph.reset()
            for name, target in graph.groups.items():
                target[:] = golden[f"obs/{name}"][step, episode]
            graph.run()
            share = _share(graph, golden, step, episode, tolerance)
            graph.keep()
            # Written so that NaN is the worst.
            if not share <= worst:
                worst, where = share, (step, episode)
    graph.reset()
    if not worst <= 1.0:
        raise OnboardFault(
            Fault.GOLDEN_MISMATCH,
            f"golden sequence {where[1]}, step {where[0]}: off by {worst:.3g} times the tolerance {tolerance:g}; do "
            "not fly",
        )
    return worst


def _share(
    graph: PolicyGraph, golden: dict[str, npt.NDArray[np.generic]], step: int, episode: int, tolerance: float
) -> float:
    found, expected = graph.action.astype(np.float64), golden["actions"][step, episode].astype(np.float64)
    scale = np.ones(len(expected))
    if graph.logit is not None:
        terms = float(golden["head_terms"][step, episode, 0])
        found = np.append(found, float(graph.logit[0]))
        expected = np.append(expected, float(golden["head_logit"][step, episode, 0]))
        # A logit is a sum, and has the rounding errors of its terms; terms that are no numbers excuse nothing.
        scale = np.append(scale, max(1.0, 0.1 * terms) if math.isfinite(terms) else math.nan)
    with np.errstate(invalid="ignore"):
        error = np.abs(found - expected) / (tolerance * (scale + np.abs(expected)))
    return float(error.max())
