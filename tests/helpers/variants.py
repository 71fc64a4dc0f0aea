"""Bundles with variants in narrower arithmetic and LEAPP's description, and changes to them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import numpy_helper

from deploy_kit.bundle.leapp import leapp_text
from deploy_kit.bundle.reader import LEAPP_NAME, manifest_text, open_bundle
from deploy_kit.bundle.variants import VARIANTS, Range, fp16_variant, int8_variant, large_layers
from helpers.bundles import Run, copy_bundle

Change = Callable[[onnx.ModelProto], object]


def unchanged(model: onnx.ModelProto) -> None:
    """Change nothing."""


def narrowed(run: Run, folder: Path, kind: str = "int8", change: Change = unchanged) -> Run:
    """Copy a bundle and put a variant of its graph into it, changed, listed in the manifest."""
    bundle = copy_bundle(run.bundle, folder / "bundle")
    model = onnx.load(bundle / "policy.onnx")
    ranges = {name: Range.spanning(-0.3, 8.0) for name in large_layers(model)}
    variant = fp16_variant(model) if kind == "fp16" else int8_variant(model, ranges)
    change(variant)
    onnx.save_model(variant, bundle / VARIANTS[kind])
    (bundle / "manifest.json").write_text(manifest_text(bundle), encoding="utf-8")
    return replace(run, bundle=bundle)


def described(
    run: Run,
    folder: Path,
    change: Callable[[dict], object] = lambda data: None,
    rewrite: Callable[[str], str] = lambda text: text,
) -> Run:
    """Copy a bundle and put LEAPP's description into it, changed as data or as text, listed in the manifest."""
    bundle = copy_bundle(run.bundle, folder / "bundle")
    data = yaml.safe_load(leapp_text(open_bundle(bundle).contract, (bundle / "policy.onnx").read_bytes()))
    change(data)
    text = rewrite(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120))
    (bundle / LEAPP_NAME).write_text(text, encoding="utf-8")
    (bundle / "manifest.json").write_text(manifest_text(bundle), encoding="utf-8")
    return replace(run, bundle=bundle)


def shift_number(ending: str, amount: float) -> Change:
    """Return a change of the first number of the tensor whose name ends so."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith(ending))
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] += np.array(amount).astype(values.dtype)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return change
