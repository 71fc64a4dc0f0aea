"""The likely cause of what failed: known faults of policies, each held against what an artifact gave."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from deploy_kit.bundle.policy_runners import Groups, PolicyOnnxRunner, PolicyReference, State
from deploy_kit.bundle.policy_tensors import ACTIONS
from deploy_kit.bundle.runners import Float32, Outputs
from deploy_kit.bundle.runtime import Runtime
from deploy_kit.verify.opening import attempt
from deploy_kit.verify.policy.artifacts import PolicyArtifacts
from deploy_kit.verify.policy.sequences import Episodes, golden_episodes, run_episodes, state_outputs_of
from deploy_kit.verify.policy.subject import PolicySubject
from deploy_kit.verify.policy.task_causes import action_names, task_cause
from deploy_kit.verify.report import Check, Diagnosis, FactCheck

NOT_RESET = "the hidden state is not reset where an episode begins"
NOT_CARRIED = "the hidden state is not carried from step to step: each step begins with zeros"
NORMALISER_DROPPED = "the observation normaliser is missing"
NORMALISED_TWICE = "observations are normalised twice"
ORDER = "actions come in another order"
OTHER_RUN = "the parameters beside the checkpoint are another run's than those that were exported"
OTHER_WEIGHTS = "the weights are another checkpoint's"

_AGREES = 1e-4
"""Share of the largest action up to which two sequences of actions are called the same."""


def diagnose_policy(
    checks: list[Check], failed: set[str], subject: PolicySubject, artifacts: PolicyArtifacts, runtime: Runtime
) -> tuple[Diagnosis, ...]:
    """Return the likely causes of failed checks, one a part of the bundle.

    Args:
        checks: all checks.
        failed: names of those that failed.
        subject: bundle and checkpoint.
        artifacts: what could be opened.
        runtime: how the graph was run.
    """
    found: dict[str, Diagnosis] = {}
    facts = {check.name: check for check in checks if isinstance(check, FactCheck)}
    if "contract/run" in failed:
        found["contract"] = Diagnosis("contract", None, None, None, OTHER_RUN)
    elif "contract/task" in failed:
        found["contract"] = Diagnosis("contract", None, None, None, task_cause(subject))
    golden, _ = attempt(lambda: subject.bundle.golden)
    if subject.misfit is None and golden is not None:
        episodes = golden_episodes(golden)
        if "golden/stored-outputs" in failed and (cause := _cause(subject, episodes, golden.actions)):
            found["golden"] = Diagnosis("golden", None, None, None, cause)
        if artifacts.onnx is not None and any(name.endswith("/onnx") for name in failed):
            given, _ = attempt(lambda: _onnx_actions(subject, artifacts, episodes, runtime))
            if given is not None and (cause := _cause(subject, episodes, given)):
                found["onnx"] = Diagnosis("onnx", None, None, None, cause)
    proof = facts.get("onnx/proof")
    if "onnx" not in found and proof is not None and proof.problems:
        differing = sum(" differs in " in problem for problem in proof.problems)
        cause = OTHER_WEIGHTS if differing > proof.count // 2 else "the graph is built in another way than the network"
        found["onnx"] = Diagnosis("onnx", None, None, None, f"{cause}: {proof.problems[0]}")
    return tuple(found.values())


def _onnx_actions(subject: PolicySubject, artifacts: PolicyArtifacts, episodes: Episodes, runtime: Runtime) -> Float32:
    assert artifacts.onnx is not None
    runner = PolicyOnnxRunner(artifacts.onnx, subject.contract, runtime)
    return _actions(_run(subject, runner, episodes))


def _run(
    subject: PolicySubject, runner: Callable[[Groups, State], Outputs], episodes: Episodes, *, reset: bool = True
) -> list[Outputs]:
    start = subject.reference.initial_state(episodes.reset.shape[1])
    return run_episodes(runner, episodes, state_outputs_of(subject.contract), start, reset=reset)


def _actions(outputs: list[Outputs]) -> Float32:
    return np.stack([step[ACTIONS] for step in outputs])


def _cause(subject: PolicySubject, episodes: Episodes, actions: Float32) -> str | None:
    """Return the fault that gives the same actions, None if none of those that are known does."""
    for cause, expected in _faults(subject, episodes):
        if _agree(actions, expected):
            return cause
    if (order := _order(actions, _actions(_run(subject, subject.reference, episodes)))) is not None:
        return f"{ORDER}: {', '.join(_moves(order, action_names(subject)))}"
    return None


def _moves(order: tuple[int, ...], names: Sequence[str] | None) -> Iterator[str]:
    """Yield which action stands in place of which, where it is another."""
    called = [f"action {index}" for index in range(len(order))] if names is None else names
    return (f"{called[there]} in place of {called[here]}" for here, there in enumerate(order) if here != there)


def _faults(subject: PolicySubject, episodes: Episodes) -> Iterator[tuple[str, Float32]]:
    reference = subject.reference
    if subject.contract.state:
        yield NOT_RESET, _actions(_run(subject, reference, episodes, reset=False))
        yield NOT_CARRIED, _actions(_run(subject, _forgetful(reference), episodes))
    eps = subject.checkpoint.network.spec.normalizer_eps
    if eps is not None and subject.usual:
        yield (
            NORMALISER_DROPPED,
            _actions(_run(subject, _before(reference, _Scaled(subject, eps, inverse=True)), episodes)),
        )
        yield NORMALISED_TWICE, _actions(_run(subject, _before(reference, _Scaled(subject, eps)), episodes))


def _forgetful(reference: PolicyReference) -> Callable[[Groups, State], Outputs]:
    return lambda groups, state: reference(groups, tuple(np.zeros_like(tensor) for tensor in state))


def _before(
    reference: PolicyReference, change: Callable[[Groups], dict[str, Float32]]
) -> Callable[[Groups, State], Outputs]:
    return lambda groups, state: reference(change(groups), state)


class _Scaled:
    """Applies the normaliser to flat groups, or undoes it, so that the one inside the network has no effect."""

    def __init__(self, subject: PolicySubject, eps: float, *, inverse: bool = False) -> None:
        self._usual, self._eps, self._inverse = subject.usual, eps, inverse

    def __call__(self, groups: Groups) -> dict[str, Float32]:
        changed = dict(groups)
        for name, (mean, deviation) in self._usual.items():
            scale = deviation + np.float32(self._eps)
            values = groups[name]
            changed[name] = values * scale + mean if self._inverse else (values - mean) / scale
        return changed


def _agree(found: Float32, expected: Float32) -> bool:
    if found.shape != expected.shape or not np.isfinite(found).all():
        return False
    return bool(np.abs(found - expected).max() <= _AGREES * max(1.0, float(np.abs(expected).max())))


def _order(found: Float32, expected: Float32) -> tuple[int, ...] | None:
    """Return which action of the checkpoint each action is, None if they are no reordering of them, or in order."""
    if found.shape != expected.shape:
        return None
    count = found.shape[-1]
    order = [
        next((there for there in range(count) if _agree(found[..., here], expected[..., there])), None)
        for here in range(count)
    ]
    if None in order or len(set(order)) != count or order == list(range(count)):
        return None
    return tuple(there for there in order if there is not None)
