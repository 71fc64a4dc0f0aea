import itertools

import numpy as np
import pytest

from deploy_kit.bundle.parity import OutputSemantics, ParityComparison
from deploy_kit.bundle.runners import GATE_TERMS, ArtifactError
from deploy_kit.bundle.thresholds import Tolerance
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.replay import batches, replay
from deploy_kit.verify.samples import SampleSet

TRANSFORM = ActionTransform((10.0, 6.0), (10.0, 0.0))
MEANING = OutputSemantics(("thrust", "rate"), ("m/s²", "rad/s"), TRANSFORM, 1.0)


def outputs(action, logit):
    return {
        "action": action,
        "command": TRANSFORM.apply(action),
        "gate_logit": logit,
        "gate_probability": 1 / (1 + np.exp(-logit)),
    }


def test_batches_tile_the_rows():
    slices = list(batches(20, (1, 2, 5)))
    assert [part.stop - part.start for part in slices] == [1, 2, 5, 5, 5, 2]
    assert slices[0].start == 0
    assert slices[-1].stop == 20
    assert all(before.stop == after.start for before, after in itertools.pairwise(slices))


def test_replay_runs_every_row_in_several_batch_sizes():
    observation = np.arange(30, dtype=np.float32)[:, None]
    sizes, seen = [], []

    def runner(rows):
        sizes.append(len(rows))
        seen.extend(rows[:, 0])
        return outputs(np.repeat(rows, 2, axis=1), rows)

    comparison = ParityComparison("c", "x", ("action", "gate_logit"), MEANING)
    told = []
    check = replay(
        SampleSet("s", "d", observation, lambda row: f"row {row}"),
        outputs(np.repeat(observation, 2, axis=1), observation),
        runner,
        comparison,
        told.append,
    )
    assert sizes[:4] == [1, 2, 3, 7]
    assert seen == list(range(30))
    assert sum(told) == check.rows == 30
    assert all(output.passes(Tolerance(1e-5, 1e-5)) for output in check.outputs)
    assert (check.decisions.positive, check.decisions.flipped) == (29, 0)


def test_recorded_rows_are_run_one_by_one_and_then_in_batches():
    observation = np.arange(20, dtype=np.float32)[:, None]
    sizes = []

    def runner(rows):
        sizes.append(len(rows))
        # In a batch, and only there, row 15 is wrong.
        wrong = (rows == 15) & (len(rows) > 1)
        return outputs(np.repeat(rows + wrong, 2, axis=1), rows)

    comparison = ParityComparison("c", "x", ("action",), MEANING)
    samples = SampleSet("s", "d", observation, lambda row: f"row {row}", recorded=True)
    check = replay(samples, outputs(np.repeat(observation, 2, axis=1), observation), runner, comparison, lambda n: None)
    assert sizes == [1] * 20 + [1, 2, 3, 7, 7]
    assert check.rows == 40
    assert check.outputs[0].worst(Tolerance(1e-5, 1e-5))[0].where == "row 15, in a batch"


def test_artifact_that_cannot_run_fails():
    def runner(rows):
        raise ArtifactError("onnxruntime cannot run the graph on 3 rows: boom")

    comparison = ParityComparison("c", "x", ("action",), MEANING)
    samples = SampleSet("s", "d", np.zeros((5, 1), np.float32), str)
    check = replay(samples, outputs(np.zeros((5, 2)), np.zeros((5, 1))), runner, comparison, lambda count: None)
    assert check.outputs[0].problem == "onnxruntime cannot run the graph on 3 rows: boom"
    assert not check.outputs[0].passes(Tolerance(1.0, 1.0))


def test_missing_output_fails():
    comparison = ParityComparison("c", "x", ("action", "gate_logit"), MEANING)
    reference = outputs(np.zeros((3, 2)), np.zeros((3, 1)))
    comparison.add(reference, {"action": reference["action"]})
    check = comparison.result(str)
    assert check.outputs[0].passes(Tolerance(1e-5, 0))
    assert check.outputs[1].problem == "missing in the artifact"


def test_probabilities_decide_like_logits():
    logit = np.array([[-3.0], [0.9], [1.1], [4.0]], np.float32)
    reference = outputs(np.zeros((4, 2)), logit)
    comparison = ParityComparison("c", "x", ("gate_probability",), MEANING)
    comparison.add(reference, {"gate_probability": reference["gate_probability"]})
    assert comparison.result(str).decisions.flipped == 0
    comparison.add(reference, {"gate_probability": np.roll(reference["gate_probability"], 1, axis=0)})
    decisions = comparison.result(str).decisions
    assert (decisions.flipped, decisions.largest_margin) == (2, pytest.approx(4.0))


def test_physical_commands_are_compared_in_si_units():
    action = np.zeros((3, 2))
    comparison = ParityComparison("c", "x", ("command",), MEANING)
    command = TRANSFORM.apply(action)
    command[1, 0] += 0.02
    comparison.add(outputs(action, np.zeros((3, 1))), {"command": command})
    check = comparison.result(lambda row: f"row {row}")
    assert (check.commands[0].unit, check.commands[0].where) == ("m/s²", "row 1")
    assert check.commands[0].max_error == pytest.approx(0.02)
    # One unit of a command is its transform's scale.
    assert check.outputs[0].max_error == pytest.approx(0.002)


def test_unbounded_actions_are_reported_in_si_units_too():
    action = np.zeros((1, 2))
    comparison = ParityComparison("c", "x", ("action",), MEANING)
    comparison.add(outputs(action, np.zeros((1, 1))), {"action": action + 0.01})
    thrust, rate = comparison.result(str).commands
    assert thrust.max_error == pytest.approx(10 * np.tanh(0.01))
    assert rate.max_error == pytest.approx(6 * np.tanh(0.01))


@pytest.mark.parametrize(("terms", "share"), [(100.0, 0.5), (20.0, 2.5), (1.0, 5.0), (None, 5.0)])
def test_a_gate_logit_is_measured_by_the_size_of_its_terms(terms, share):
    reference = outputs(np.zeros((1, 2)), np.zeros((1, 1)))
    if terms is not None:
        reference[GATE_TERMS] = np.array([[terms]])
    comparison = ParityComparison("c", "x", ("gate_logit",), MEANING)
    comparison.add(reference, {"gate_logit": np.full((1, 1), 5e-5)})
    assert comparison.result(str).outputs[0].worst(Tolerance(1e-5, 0.0))[1] == pytest.approx(share)
