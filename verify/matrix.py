"""Other ways to run the same graph: providers, optimisation levels, threads; each that may fly is verified."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.parity import ParityCheck, ParityComparison
from deploy_kit.bundle.reader import ONNX_NAME
from deploy_kit.bundle.runners import ArtifactError, OnnxRunner
from deploy_kit.bundle.runtime import COMPUTING, Runtime
from deploy_kit.bundle.thresholds import TF32_PROFILE
from deploy_kit.progress import Progress
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.replay import reference_outputs, replay
from deploy_kit.verify.report import Check, FactCheck, NotRun
from deploy_kit.verify.samples import SampleSet


def provider_check(name: str, runner: OnnxRunner, contract: Contract) -> FactCheck:
    """Return the check that a graph's arithmetic runs on the provider that was asked for, operator by operator."""
    wanted = runner.runtime.execution_provider
    compared = f"each operator runs on {wanted}, as asked for ({runner.runtime})"
    rows = np.zeros((contract.batch or 1, contract.observation.size), np.float32)
    try:
        found = runner.executed(rows)
    except ArtifactError as error:
        return FactCheck(name, compared, 1, (str(error),))
    elsewhere = {
        operator: provider
        for provider, operators in found.items()
        for operator in operators
        if provider != wanted and operator.startswith(COMPUTING)
    }
    problems = [f"{operator} ran on {provider}" for operator, provider in sorted(elsewhere.items())]
    if not found.get(wanted):
        problems.append(f"nothing ran on {wanted}")
    others = {provider: sorted(operators) for provider, operators in found.items() if provider != wanted}
    note = "; ".join(f"on {provider}: {', '.join(operators)}" for provider, operators in sorted(others.items()))
    return FactCheck(name, compared, sum(sum(c.values()) for c in found.values()), tuple(problems), note or None)


def matrix_checks(
    subject: BundleAndCheckpoint,
    runtimes: Sequence[Runtime],
    sets: Sequence[SampleSet],
    progress: Callable[[Progress], None],
) -> Iterator[Check]:
    """Replay sample sets with the graph in each of several runtimes, recorded rows one by one and in batches.

    Args:
        subject: what is verified.
        runtimes: ways to run the graph.
        sets: the inputs.
        progress: told what is being done.
    """
    references = [reference_outputs(subject.reference, samples.observation) for samples in sets]
    for runtime in runtimes:
        progress(Progress(f"replay on {runtime}", 0))
        name = f"onnx/provider@{runtime}"
        try:
            runner = OnnxRunner(subject.bundle.read(ONNX_NAME), subject.contract, runtime=runtime)
        except ArtifactError as error:
            yield FactCheck(name, f"loaded by onnxruntime, {runtime}", 1, (str(error),))
            yield NotRun(f"replay@{runtime}", "not opened: the check above says why")
            continue
        yield provider_check(name, runner, subject.contract)
        for samples, reference in zip(sets, references, strict=True):
            comparison = ParityComparison(
                f"replay/{samples.name}/onnx@{runtime}", samples.described, subject.roles, subject.semantics
            )
            yield by_arithmetic(replay(samples, reference, runner, comparison, lambda _: None), runtime)


def by_arithmetic(check: Check, runtime: Runtime) -> Check:
    """Return a check of what a runtime gave, judged by the profile of its arithmetic."""
    if isinstance(check, ParityCheck) and runtime.tf32:
        return replace(check, profile=TF32_PROFILE)
    return check


def of_the_graph(check: Check) -> bool:
    """Return whether a check's figures come from the ONNX graph in the first runtime."""
    name = check.name
    return name.endswith(("/onnx", "/onnx-head")) or name == "live/shadow"
