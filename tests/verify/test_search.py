import numpy as np
import pytest

from deploy_kit.bundle.parity import OutputSemantics, ParityComparison, row_shares
from deploy_kit.bundle.reader import open_bundle
from deploy_kit.bundle.runners import ArtifactError, Reference
from deploy_kit.bundle.thresholds import FP32_PARITY
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.flight_like import flight_like_samples, observation_range
from deploy_kit.verify.search import GENERATION, WORST, search

TRANSFORM = ActionTransform((14.7, 6.0, 6.0, 6.0), (14.7, 0.0, 0.0, 0.0))
SEMANTICS = OutputSemantics(("t", "x", "y", "z"), ("m/s²", "rad/s", "rad/s", "rad/s"), TRANSFORM, 0.0)


@pytest.fixture(scope="module")
def contract(run):
    return open_bundle(run.bundle).contract


@pytest.fixture(scope="module")
def reference(run):
    return Reference(load_checkpoint(run.checkpoint).network, TRANSFORM)


def searched(contract, reference, artifact, evaluations=1024, seed=0, usual_terms=1e9):
    sizes = []
    comparison = ParityComparison("replay/search/onnx", "x", ("action", "gate_logit"), SEMANTICS)
    start = flight_like_samples(contract, 100, 5).observation
    told = []

    def counted(rows):
        sizes.append(len(rows))
        return artifact(rows)

    found = search(start, contract, reference, counted, comparison, evaluations, seed, usual_terms, told.append)
    assert sum(told) == len(sizes) if found.worst.observation.size else True
    assert set(sizes) == {1}
    return found


def off_in_a_corner(reference, contract):
    """Right on every usual input; wrong where one state number is near its highest and the image's top is dark."""
    _, high = observation_range(contract)

    def run(rows):
        outputs = reference(rows)
        image = rows[:, contract.observation.state_size :].reshape(len(rows), 24, 32)
        reach = np.maximum(0.0, rows[:, 7] / high[7] - 0.6) * np.maximum(0.0, 0.5 - image[:, :4].mean(axis=(1, 2)))
        return {**outputs, "action": outputs["action"] + (1e-4 * reach)[:, None].astype(np.float32)}

    return run


def share(check):
    return max(output.worst(FP32_PARITY)[1] for output in check.outputs)


def test_a_search_finds_a_corner_that_samples_do_not_visit(contract, reference):
    artifact = off_in_a_corner(reference, contract)
    start = flight_like_samples(contract, 1024, 6).observation
    shares = row_shares(reference(start), artifact(start), ("action", "gate_logit"), TRANSFORM, FP32_PARITY)
    assert shares.max() < 0.5
    found = searched(contract, reference, artifact)
    assert found.check.rows == 1024
    assert share(found.check) > 1.0
    # The worst come along, for the other artifacts.
    assert len(found.worst.observation) == WORST
    rows = found.worst.observation
    kept = row_shares(reference(rows), artifact(rows), ("action", "gate_logit"), TRANSFORM, FP32_PARITY)
    assert kept.max() == pytest.approx(share(found.check), rel=0.05)


def test_a_search_stays_within_the_ranges(contract, reference):
    low, high = observation_range(contract)
    rows = searched(contract, reference, off_in_a_corner(reference, contract), 512).worst.observation
    assert (rows >= low - 1e-6).all()
    assert (rows <= high + 1e-6).all()


def test_a_search_repeats_under_its_seed_and_keeps_to_its_budget(contract, reference):
    artifact = off_in_a_corner(reference, contract)
    first, again, other = (searched(contract, reference, artifact, 150, seed) for seed in (3, 3, 4))
    assert first.check.rows == 150
    assert np.array_equal(first.worst.observation, again.worst.observation)
    assert first.check == again.check
    assert not np.array_equal(first.worst.observation, other.worst.observation)


def test_larger_sums_are_allowed_larger_errors(contract, reference):
    def artifact(rows):
        outputs = reference(rows)
        return {**outputs, "action": outputs["action"] + np.float32(5e-5)}

    assert share(searched(contract, reference, artifact, GENERATION).check) > 1.0
    assert share(searched(contract, reference, artifact, GENERATION, usual_terms=1e-3).check) < 0.1


def test_nan_is_the_worst_and_fails(contract, reference):
    def artifact(rows):
        outputs = reference(rows)
        wrong = np.where(rows[:, :1] > 8.0, np.nan, outputs["action"]).astype(np.float32)
        return {**outputs, "action": wrong}

    check = searched(contract, reference, artifact, 512).check
    assert check.outputs[0].nonfinite > 0
    assert not check.outputs[0].passes(FP32_PARITY)


def test_an_artifact_that_cannot_run_fails(contract, reference):
    def artifact(rows):
        raise ArtifactError("boom")

    comparison = ParityComparison("replay/search/onnx", "x", ("action",), SEMANTICS)
    start = flight_like_samples(contract, 10, 5).observation
    found = search(start, contract, reference, artifact, comparison, 64, 0, 1.0, lambda count: None)
    assert found.check.outputs[0].problem == "boom"
    assert not len(found.worst.observation)
