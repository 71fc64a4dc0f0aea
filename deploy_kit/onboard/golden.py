"""The golden samples: what PyTorch gave for recorded observations must come out on this computer too."""

import math

import numpy as np
import numpy.typing as npt

from .contract import FloatArray, OnboardContract
from .engine import Engine
from .faults import Fault, OnboardFault


def replay(
    graph: Engine,
    contract: OnboardContract,
    golden: dict[str, FloatArray],
    tolerance: float,
    graph_tolerance: float | None = None,
) -> float:
    """Run every golden sample, one at a time as in flight; return the worst as a share of its tolerance.

    Args:
        graph: what computes the network.
        contract: makes commands of its actions.
        golden: the samples.
        tolerance: of the contract's commands.
        graph_tolerance: of what the network gives; `tolerance` if None.

    Raises:
        OnboardFault: one is out of it, or the contract makes another command of a golden action.
    """
    commands = command_share(contract, golden, tolerance)
    tolerance = tolerance if graph_tolerance is None else graph_tolerance
    shares = [_replay_sample(graph, contract, golden, row, tolerance) for row in range(len(golden["observation"]))]
    worst = int(np.argmax(np.nan_to_num(shares, nan=np.inf)))
    # Written so that NaN is refused too.
    if not shares[worst] <= 1.0:
        raise OnboardFault(
            Fault.GOLDEN_MISMATCH,
            f"golden sample {worst}: off by {shares[worst]:.3g} times the tolerance {tolerance:g}; do not fly",
        )
    return max(shares[worst], commands)


def command_share(contract: OnboardContract, golden: dict[str, FloatArray], tolerance: float) -> float:
    """Return the largest error of the contract's commands for the golden actions, as a share of the tolerance.

    Raises:
        OnboardFault: one is out of it: the contract's action transform is not the vehicle's.
    """
    found = contract.command(golden["action"])
    wanted = golden["command"].astype(np.float64)
    share = np.abs(found - wanted) / (tolerance * (contract.scale + np.abs(wanted)))
    row, index = np.unravel_index(int(np.argmax(np.nan_to_num(share, nan=np.inf))), share.shape)
    # Written so that NaN is refused too.
    if not share[row, index] <= 1.0:
        raise OnboardFault(
            Fault.GOLDEN_MISMATCH,
            f"golden sample {row}: command {index} is {wanted[row, index]:.6g}, this contract makes "
            f"{found[row, index]:.6g} of its action; do not fly",
        )
    return float(share[row, index])


def _replay_sample(
    graph: Engine, contract: OnboardContract, golden: dict[str, FloatArray], row: int, tolerance: float
) -> float:
    observation = golden["observation"][row]
    size = len(contract.state_low)
    graph.state[:] = observation[:size]
    graph.image[:] = observation[size:].reshape(contract.image_shape)
    graph.run()
    gate = expected = None
    if graph.gate is not None:
        gate = float(graph.gate[0])
        expected = float(golden["gate_logit"][row, 0]), float(golden["gate_terms"][row, 0])
    return golden_share(contract, graph.first.astype(np.float64), gate, golden["action"][row], expected, tolerance)


def golden_share(
    contract: OnboardContract,
    first: npt.NDArray[np.float64],
    gate: float | None,
    action: npt.NDArray[np.floating],
    logit_and_terms: tuple[float, float] | None,
    tolerance: float,
) -> float:
    """Return the largest error of the graph's outputs as a share of its tolerance; NaN where something is not finite.

    Args:
        contract: says what the outputs are.
        first: (4,) the graph's action or command.
        gate: the graph's gate output, None without one.
        action: (4,) the unbounded action that PyTorch gave.
        logit_and_terms: the gate logit that PyTorch gave, and the summed sizes of its terms; None without a gate.
        tolerance: absolute and relative.
    """
    expected, scale = action.astype(np.float64), np.ones(len(contract.scale))
    if contract.physical:
        expected, scale = contract.command(expected), contract.scale
    if gate is not None and logit_and_terms is not None:
        wanted, terms = logit_and_terms
        if contract.gate_probability:
            wanted = sigmoid(wanted)
            terms *= wanted * (1 - wanted)
        first = np.append(first, gate)
        expected = np.append(expected, wanted)
        # A logit is a sum, and has the rounding errors of its terms; terms that are no numbers excuse nothing.
        scale = np.append(scale, max(1.0, 0.1 * terms) if math.isfinite(terms) else math.nan)
    with np.errstate(invalid="ignore"):
        error = np.abs(first - expected) / (tolerance * (scale + np.abs(expected)))
    return float(error.max())


def sigmoid(logit: float) -> float:
    """Return the probability of a logit."""
    # By the sign, so that exp cannot overflow.
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))
