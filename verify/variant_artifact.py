"""Variants of a bundle's graph: made anew from the graph that is proven, compared, then run and flown."""

import dataclasses
from collections.abc import Callable, Iterator

import onnx

from deploy_kit.bundle.reader import ONNX_NAME
from deploy_kit.bundle.runners import ArtifactError, OnnxRunner, Runner
from deploy_kit.bundle.runtime import Runtime
from deploy_kit.bundle.variants import VARIANTS, fp16_variant, int8_variant, stated_ranges
from deploy_kit.errors import CheckFailedError
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.progress import Progress
from deploy_kit.text import one_line
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.live import LiveTest
from deploy_kit.verify.outputs.evidence import Evidence
from deploy_kit.verify.report import Check, FactCheck, FlightCheck, NotRun
from deploy_kit.verify.rollouts import DRIVING
from deploy_kit.verify.share import LiveOptions
from deploy_kit.verify.structure.onnx_file import load_graph

_COMPARED = "the graph in this arithmetic, made anew from policy.onnx: each operator and number"


def open_variant(
    subject: BundleAndCheckpoint, kind: str, checks: list[Check], runtime: Runtime, proven: bool
) -> OnnxRunner | None:
    """Compare a variant with what the bundle's own graph implies, and open it if it is that.

    Args:
        subject: bundle and checkpoint.
        kind: "fp16" or "int8".
        checks: what is found is added here.
        runtime: how to run it.
        proven: whether the bundle's own graph was proven and opened; nothing else is run.
    """
    name = f"{kind}/graph"
    variant = load_graph(subject.bundle.read(VARIANTS[kind]), VARIANTS[kind])
    model = load_graph(subject.bundle.read(ONNX_NAME), ONNX_NAME)
    numbers = len(variant.graph.node) + len(variant.graph.initializer)
    try:
        implied = fp16_variant(model) if kind == "fp16" else int8_variant(model, stated_ranges(variant, model))
        problem = _difference(variant, implied)
    except CheckFailedError as error:
        problem = one_line(error)
    checks.append(FactCheck(name, _COMPARED, numbers, () if problem is None else (problem,)))
    if problem is not None:
        return None
    if not proven:
        checks.append(NotRun(f"{kind}/run", "the graph that it is made of is not proven"))
        return None
    try:
        return OnnxRunner(variant, subject.contract, runtime=runtime)
    except ArtifactError as error:
        checks.append(FactCheck(f"{kind}/run", f"loaded by onnxruntime, {runtime}", 1, (str(error),)))
        return None


def _difference(found: onnx.ModelProto, implied: onnx.ModelProto) -> str | None:
    """Say where a graph is not the one that is implied, None if it is, to the last bit."""
    if found.SerializeToString(deterministic=True) == implied.SerializeToString(deterministic=True):
        return None
    stored = {tensor.name: tensor for tensor in found.graph.initializer}
    for tensor in implied.graph.initializer:
        if tensor.name not in stored:
            return f"the number {tensor.name!r} is missing"
        if stored[tensor.name] != tensor:
            return f"{tensor.name} is not what the graph's weights give in this arithmetic"
    nodes = [(node.op_type, tuple(node.input), tuple(node.output)) for node in found.graph.node]
    wanted = [(node.op_type, tuple(node.input), tuple(node.output)) for node in implied.graph.node]
    for place, (node, right) in enumerate(zip(nodes, wanted, strict=False)):
        if node != right:
            return f"operator {place} is {node[0]} that gives {', '.join(node[2])}, expected {right[0]}"
    if len(nodes) != len(wanted):
        return f"it has {len(nodes)} operators, expected {len(wanted)}"
    return "attributes, inputs, outputs or metadata are not those of the graph that it is made of"


def variant_flights(
    kind: str,
    runner: Runner,
    subject: BundleAndCheckpoint,
    checkpoint: Checkpoint,
    options: LiveOptions,
    progress: Callable[[Progress], None],
) -> Iterator[Check]:
    """Fly a variant against the checkpoint, from the same seeds, and yield the check of the flights.

    Args:
        kind: "fp16" or "int8".
        runner: the variant.
        subject: bundle and checkpoint.
        checkpoint: the truth.
        options: of the bundle's own flights.
        progress: told the steps flown.
    """
    name = f"{DRIVING}@{kind}"
    if "driving" not in options.modes:
        yield NotRun(name, "driving is not among the live modes asked for", "--live-mode")
        return
    # The page shows flights of the graph itself.
    apart = dataclasses.replace(subject, evidence=Evidence())
    with LiveTest(dataclasses.replace(options, modes=("driving",), shares=1)) as live:
        live.prepare(checkpoint)
        for check in live.run(apart, runner, progress):
            if isinstance(check, FlightCheck):
                compared = f"{kind} drives, against PyTorch from the same seed"
                yield dataclasses.replace(check, name=name, compared=compared)
            elif check.name == DRIVING:
                yield dataclasses.replace(check, name=name)
