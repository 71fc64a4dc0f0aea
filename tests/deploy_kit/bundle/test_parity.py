import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploy_kit.bundle.differences import CommandComparison, DecisionComparison, OutputComparison
from deploy_kit.bundle.parity import OutputSemantics, ParityComparison
from deploy_kit.bundle.runners import FEATURE_TERMS
from deploy_kit.bundle.thresholds import Tolerance
from deploy_kit.flight.paired import PairedDifference
from deploy_kit.task.interface import ActionTransform

TOLERANCE = Tolerance(1e-5, 1e-5)


def compare(reference, candidate, block=None, **arguments):
    comparison = OutputComparison("action", **arguments)
    block = block or len(reference)
    for start in range(0, len(reference), block):
        comparison.add(reference[start : start + block], candidate[start : start + block], start)
    return comparison.result(lambda row: f"row {row}")


def test_equal_outputs_pass():
    values = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    output = compare(values, values.copy())
    assert output.passes(TOLERANCE)
    assert (output.elements, output.nonfinite, output.max_error, output.mean_error) == (200, 0, 0.0, 0.0)


def test_worst_element_is_named_across_blocks():
    reference = np.zeros((100, 4), np.float32)
    candidate = reference.copy()
    candidate[73, 2] = 3e-5
    candidate[10, 1] = 2e-5
    output = compare(reference, candidate, block=16)
    element, share = output.worst(TOLERANCE)
    assert (element.row, element.channel, element.where) == (73, 2, "row 73")
    assert element.error == pytest.approx(3e-5)
    assert share == pytest.approx(3.0)
    assert not output.passes(TOLERANCE)
    assert output.mean_error == pytest.approx(5e-5 / 400)


def test_small_error_at_small_reference_outweighs_large_error_at_large_reference():
    reference = np.array([[100.0], [0.0]])
    candidate = reference + np.array([[5e-4], [2e-5]])
    output = compare(reference, candidate)
    element, share = output.worst(TOLERANCE)
    assert element.row == 1
    assert share == pytest.approx(2.0)
    assert output.worst(Tolerance(1e-3, 0.0))[0].row == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "candidate", "both"])
def test_values_that_are_not_finite_fail(value, side):
    reference, candidate = np.zeros((5, 2)), np.zeros((5, 2))
    if side in ("reference", "both"):
        reference[3, 1] = value
    if side in ("candidate", "both"):
        candidate[3, 1] = value
    output = compare(reference, candidate)
    assert not output.passes(Tolerance(1e9, 1e9))
    assert output.nonfinite == 1
    assert output.nonfinite_where == "row 3"


def test_all_nan_fails():
    reference = np.zeros((5, 2))
    output = compare(reference, np.full_like(reference, np.nan))
    assert not output.passes(TOLERANCE)
    assert output.nonfinite == 10
    assert output.worst(TOLERANCE) is None


def test_nothing_compared_fails():
    assert not OutputComparison("action").result(str).passes(TOLERANCE)


@pytest.mark.parametrize(
    ("candidate", "problem"),
    [
        (np.zeros((5, 1)), r"shape \(5, 1\), expected \(5, 4\)"),
        (np.zeros((1, 4)), r"shape \(1, 4\)"),
        (np.zeros((5, 4), np.int64), "type int64"),
    ],
)
def test_other_shape_or_type_fails(candidate, problem):
    output = compare(np.zeros((5, 4)), candidate)
    assert not output.passes(TOLERANCE)
    assert output.problem is not None
    assert __import__("re").search(problem, output.problem)


def test_scale_makes_units():
    reference = np.zeros((1, 2))
    candidate = np.array([[5e-5, 5e-5]])
    output = compare(reference, candidate, scale=(10.0, 1.0))
    element, share = output.worst(TOLERANCE)
    assert (element.channel, share) == (1, pytest.approx(5.0))
    output = compare(reference, candidate, scale=(10.0, 10.0))
    assert output.passes(TOLERANCE)


def test_row_scale_makes_units():
    comparison = OutputComparison("action")
    comparison.add(np.zeros((2, 1)), np.full((2, 1), 1e-3), 0, np.array([[1000.0], [1.0]]))
    element, share = comparison.result(str).worst(TOLERANCE)
    assert (element.row, share) == (1, pytest.approx(100.0))


finite = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=200, deadline=None)
@given(
    reference=hnp.arrays(np.float64, (30, 2), elements=finite),
    error=hnp.arrays(np.float64, (30, 2), elements=st.floats(0, 1e-2)),
    absolute=st.floats(1e-7, 1e-2),
    relative=st.floats(0, 1e-2),
    block=st.integers(1, 30),
)
def test_frontier_judges_like_all_elements(reference, error, absolute, relative, block):
    tolerance = Tolerance(absolute, relative)
    candidate = reference + error
    share = (np.abs(candidate - reference) / (absolute + relative * np.abs(reference))).max()
    _, found = compare(reference, candidate, block=block).worst(tolerance)
    assert found == pytest.approx(share, rel=1e-9)


def test_frontier_stays_small():
    rng = np.random.default_rng(1)
    reference = rng.standard_normal((20_000, 4))
    output = compare(reference, reference + rng.standard_normal((20_000, 4)) * 1e-6, block=1000)
    assert len(output.frontier) < 60


def test_tolerance_share_of_nan_fails():
    assert TOLERANCE.share(float("nan"), 1.0) == float("inf")
    assert TOLERANCE.share(1.5e-5, 0.5) == pytest.approx(1.0)


def decide(logit, decision, threshold=0.0, **arguments):
    comparison = DecisionComparison(threshold)
    comparison.add(np.asarray(logit, np.float32), np.asarray(decision), 0, **arguments)
    return comparison.result(lambda row: f"row {row}")


def test_flips_are_counted_and_the_farthest_is_named():
    decisions = decide([-1.0, 2e-5, 0.3, 1.0], [False, False, False, True])
    assert (decisions.decisions, decisions.positive, decisions.flipped) == (4, 3, 2)
    assert decisions.largest_margin == pytest.approx(0.3)
    assert decisions.where == "row 2"
    assert not decisions.passes(1e-4)
    assert decisions.passes(0.5)


def test_flip_inside_the_band_passes():
    assert decide([0.5 + 5e-5], [False], threshold=0.5).passes(1e-4)
    assert not decide([0.5 + 2e-4], [False], threshold=0.5).passes(1e-4)


def test_logit_at_the_threshold_is_a_gate_pass():
    decisions = decide([0.5], [True], threshold=0.5)
    assert (decisions.positive, decisions.flipped, decisions.where) == (1, 0, None)


def test_row_scale_widens_the_band():
    assert decide([0.05], [False], row_scale=np.array([[1000.0]])).passes(1e-4)


def test_command_errors_are_per_channel():
    comparison = CommandComparison(("thrust", "rate"), ("m/s²", "rad/s"))
    comparison.add(np.zeros((3, 2)), np.array([[0.0, 0.1], [0.2, 0.0], [np.nan, 0.0]]), 0)
    comparison.add(np.zeros((1, 2)), np.array([[0.1, 0.3]]), 3)
    thrust, rate = comparison.result(lambda row: f"row {row}")
    assert (thrust.name, thrust.unit, thrust.max_error, thrust.where) == ("thrust", "m/s²", 0.2, "row 1")
    assert (rate.max_error, rate.where) == (0.3, "row 3")


def test_paired_difference_by_hand():
    figure = PairedDifference.of("gates", "1", np.array([6.0, 7.0, 5.0, 8.0]), np.array([6.0, 6.0, 5.0, 7.0]))
    assert figure.difference == -0.5
    assert (figure.equal_pairs, figure.pairs) == (2, 4)
    # Student's t with three degrees of freedom, 97.5 %.
    half = 3.182446305 * np.sqrt(1 / 3) / 2
    assert figure.ci95 == pytest.approx((-0.5 - half, -0.5 + half))
    assert not figure.within(1.4)
    assert figure.within(1.42)


def test_equal_flights_are_within_any_margin():
    values = np.array([6.0, 7.0, 5.0])
    assert PairedDifference.of("gates", "1", values, values).within(0.0)


def test_higher_figure_fails_too():
    figure = PairedDifference.of("gates", "1", np.zeros(30), np.ones(30))
    assert not figure.within(0.5)


def test_features_are_held_to_the_size_of_their_terms():
    """Rounding errors of uniform images add up to 1.4e-6 of the terms; ten times that is no rounding."""
    semantics = OutputSemantics(("a",), ("1",), ActionTransform((1.0,), (0.0,)), None)
    reference = {"features": np.zeros((1, 3), np.float32), FEATURE_TERMS: np.float32([[15.0, 2.0, 1.0]])}
    for error, passes in ((2.1e-5, True), (7.4e-5, True), (2.1e-4, False)):
        comparison = ParityComparison("replay/kept/onnx", "", ("features",), semantics)
        comparison.add(reference, {"features": np.float32([[0.0, error, 0.0]])})
        (output,) = comparison.result(str).outputs
        assert output.passes(TOLERANCE) is passes
    # Small terms give no stricter limit than one unit.
    comparison = ParityComparison("replay/kept/onnx", "", ("features",), semantics)
    comparison.add(
        {**reference, FEATURE_TERMS: np.float32([[0.1, 0.1, 0.1]])}, {"features": np.float32([[9e-6, 0, 0]])}
    )
    assert comparison.result(str).outputs[0].passes(TOLERANCE)
