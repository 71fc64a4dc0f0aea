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


LITERAL_TOLERANCE = 5e-3
"""Of a variant against itself without optimisation: float sums in another order, which here and there round to the next
step of a narrow number. A processor that saturates sums of int8 products is off by more."""


def replay_literally(graph: Engine, literal: Engine, contract: OnboardContract, golden: dict[str, FloatArray]) -> float:
    """Run every golden sample through a variant of the graph and through what it says; return the worst share.

    The golden outputs are those of the weights as they were, from which a variant differs: what this computer's
    narrow arithmetic gives is seen closely only by the variant itself, operator by operator in float32.

    Args:
        graph: the variant, as it will fly.
        literal: the same without optimisation.
        contract: says what the outputs are.
        golden: the samples.

    Raises:
        OnboardFault: they differ.
    """
    worst, size = 0.0, len(contract.state_low)
    scale = contract.scale if contract.physical else np.ones(len(contract.scale))
    for row, observation in enumerate(golden["observation"]):
        outputs = []
        for engine in (graph, literal):
            engine.state[:] = observation[:size]
            engine.image[:] = observation[size:].reshape(contract.image_shape)
            engine.run()
            outputs.append(np.append(engine.first, [] if engine.gate is None else engine.gate).astype(np.float64))
        terms = [] if graph.gate is None else [max(1.0, 0.1 * float(golden["gate_terms"][row, 0]))]
        unit = np.append(scale, terms)
        with np.errstate(invalid="ignore"):
            error = np.abs(outputs[0] - outputs[1]) / (LITERAL_TOLERANCE * (unit + np.abs(outputs[1])))
        share = float(error.max())
        # Written so that NaN is refused too.
        if not share <= 1.0:
            raise OnboardFault(
                Fault.GOLDEN_MISMATCH,
                f"golden sample {row}: this computer's narrow arithmetic is off by {share:.3g} times the tolerance "
                f"{LITERAL_TOLERANCE:g} from what the variant says; do not fly it here",
            )
        worst = max(worst, share)
    return worst


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
