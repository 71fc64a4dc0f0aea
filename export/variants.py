"""Make a graph's variants in narrower arithmetic; int8 is calibrated on recorded observations."""

import onnx

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.runners import OnnxRunner
from deploy_kit.bundle.subgraph import cut
from deploy_kit.bundle.variants import Range, fp16_variant, int8_variant, large_layers
from deploy_kit.data.reader import FeatureFile
from deploy_kit.errors import CheckFailedError, OptionError
from deploy_kit.verify.dataset import Dataset

MAX_OBSERVATIONS = 2000
"""Recorded observations that ranges are taken from, spread evenly."""


def make_variant(kind: str, model: onnx.ModelProto, contract: Contract, samples: FeatureFile | None) -> onnx.ModelProto:
    """Return a variant of a graph.

    Args:
        kind: "fp16" or "int8".
        model: the graph.
        contract: its contract.
        samples: feature file whose observations calibrate int8.

    Raises:
        OptionError: int8 is asked for and there are no recorded observations.
        CheckFailedError: the graph has no such variant.
    """
    variant = fp16_variant(model) if kind == "fp16" else int8_variant(model, _calibrated(model, contract, samples))
    try:
        onnx.checker.check_model(variant, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailedError(f"{kind}: this graph cannot be put into that arithmetic ({error})") from error
    return variant


def _calibrated(model: onnx.ModelProto, contract: Contract, samples: FeatureFile | None) -> dict[str, Range]:
    """Return the range of what each large layer reads, over recorded observations."""
    kept = None if samples is None else Dataset(samples).kept_samples(MAX_OBSERVATIONS)
    if kept is None:
        raise OptionError(
            "--variant int8 is calibrated on recorded observations, and the feature file holds none; collect with "
            "--keep-observations"
        )
    names = list(large_layers(model))
    if not names:
        return {}
    runner = OnnxRunner(
        cut(model, [value.name for value in model.graph.input], names), contract, outputs={name: name for name in names}
    )
    found = runner(kept.samples.observation)
    return {name: Range.spanning(float(values.min()), float(values.max())) for name, values in found.items()}
