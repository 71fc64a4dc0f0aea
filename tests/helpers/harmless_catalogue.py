"""Right bundles in another form, which verify must pass, one entry each.

The table in docs/traps.md is written from here, and tests/traps runs every entry.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from deploy_kit.bundle.graph_options import graph_options_of
from deploy_kit.bundle.reader import manifest_text, open_bundle
from deploy_kit.bundle.signature import SIGNATURE_NAME
from deploy_kit.export.graph import DeployedPolicy
from deploy_kit.export.torchscript import _Outputs
from deploy_kit.page.render import GENERATOR
from deploy_kit.task.interface import ActionTransform
from helpers.bundles import Run, make_run
from helpers.cpp_headers import with_header
from helpers.equivalent_graphs import EQUIVALENT
from helpers.feature_files import write_policy_file
from helpers.mutations import copied, mutate_graph, publish
from helpers.vehicles import VEHICLE


@dataclass(frozen=True)
class Harmless:
    """A right bundle in another form.

    Attributes:
        what: how it differs, in words.
        make: builds it from a right bundle in a folder.
        options: of the verification; a file's name is one in the folder.
    """

    what: str
    make: Callable[[Run, Path], Run]
    options: Mapping[str, Any] = field(default_factory=dict)


def _equivalent(change: Callable[..., None]) -> Callable[[Run, Path], Run]:
    return lambda run, folder: mutate_graph(run, folder, lambda model: change(model, run.network))


def _changed(change: Callable[[Run, Path], None]) -> Callable[[Run, Path], Run]:
    """Change files of a bundle and list them anew."""

    def make(run: Run, folder: Path) -> Run:
        result = copied(run, folder)
        change(run, result.bundle)
        (result.bundle / "manifest.json").write_text(manifest_text(result.bundle))
        return result

    return make


def _exported(**options: Any) -> Callable[[Run, Path], Run]:
    return lambda run, folder: make_run(folder, **options)


def _policy(run: Run) -> DeployedPolicy:
    transform = ActionTransform((1.0,) * 4, (0.0,) * 4)
    return DeployedPolicy(run.network, graph_options_of(open_bundle(run.bundle).contract, run.network, transform))


def _older_exporter(run: Run, bundle: Path) -> None:
    """The exporter of torch that traces, instead of the one that compiles."""
    policy, names = _policy(run), ("action", "gate_logit", "features")
    old = onnx.load(bundle / "policy.onnx")
    axes = {name: {0: "batch"} for name in ("state", "depth", *names)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            policy, policy.example_inputs(), str(bundle / "policy.onnx"), input_names=["state", "depth"],
            output_names=list(names), dynamic_axes=axes, opset_version=18, dynamo=False,
        )  # fmt: skip
    model = onnx.load(bundle / "policy.onnx")
    features = next(value for value in model.graph.output if value.name == "features")
    model.graph.output.remove(features)
    model.graph.value_info.append(features)
    for value in model.graph.output:
        value.CopyFrom(next(one for one in old.graph.output if one.name == value.name))
    model.ir_version = old.ir_version
    publish(bundle, model=model)


def _not_frozen(run: Run, bundle: Path) -> None:
    policy = _policy(run)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        torch.jit.save(torch.jit.trace(_Outputs(policy).eval(), policy.example_inputs()), bundle / "policy.pt")


def _saved_again(run: Run, bundle: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        torch.jit.save(torch.jit.load(run.bundle / "policy.pt"), bundle / "policy.pt")


def _compressed_golden(run: Run, bundle: Path) -> None:
    with np.load(run.bundle / "golden.npz") as archive:
        np.savez_compressed(bundle / "golden.npz", **archive)


def _indented_contract(run: Run, bundle: Path) -> None:
    data = json.loads((bundle / "contract.json").read_text())
    (bundle / "contract.json").write_text(json.dumps(data, indent=7, sort_keys=True))


def _files_beside(run: Run, folder: Path) -> Run:
    result = copied(run, folder)
    (result.bundle / "report.html").write_text(f"<!doctype html>{GENERATOR}")
    (result.bundle / SIGNATURE_NAME).write_text("x")
    return result


def _renamed_checkpoint(run: Run, folder: Path) -> Run:
    checkpoint = folder / "best.safetensors"
    shutil.copy(run.checkpoint, checkpoint)
    return replace(copied(run, folder), checkpoint=checkpoint)


def _own_vehicle(run: Run, folder: Path) -> Run:
    path = folder / "vehicle.yaml"
    path.write_text(VEHICLE.replace("max_thrust_to_weight: 3.0", "max_thrust_to_weight: 2.2").replace("0.03", "0.02"))
    return make_run(folder, vehicle_file=path, task=None)


def _without_observations(run: Run, folder: Path) -> Run:
    dataset = folder / "few.h5"
    write_policy_file(dataset, run.network, run.checkpoint, kept=0)
    return replace(copied(run, folder), dataset=dataset)


def _exported_all(run: Run, folder: Path) -> Run:
    return make_run(folder, variants=("fp16", "int8"), formats=("leapp",))


HARMLESS = [
    Harmless("nothing but written again", lambda run, folder: mutate_graph(run, folder, lambda model: None)),
    *(Harmless(what, _equivalent(change)) for change, what in EQUIVALENT.items()),
    Harmless("graph of torch's older, tracing exporter", _changed(_older_exporter)),
    Harmless("opset 17", _exported(opset=17)),
    Harmless("opset 21", _exported(opset=21)),
    Harmless(
        "one flat input, commands and a probability",
        _exported(input_layout="flat", physical_actions=True, gate_output="probability"),
    ),
    Harmless("a fixed batch size", _exported(batch_size=3)),
    Harmless("other names of inputs and outputs", _exported(input_names=("s", "d"), output_names=("a", "g"))),
    Harmless("no gate output", _exported(use_auxiliary_head=False)),
    Harmless("TorchScript that was not frozen", _changed(_not_frozen)),
    Harmless("TorchScript loaded and saved again", _changed(_saved_again)),
    Harmless("golden samples compressed", _changed(_compressed_golden)),
    Harmless("`contract.json` indented and sorted otherwise", _changed(_indented_contract)),
    Harmless("report and signature beside the bundle", _files_beside),
    Harmless("a copy of the checkpoint under another name", _renamed_checkpoint),
    Harmless("the user's own vehicle, with other thrust and clock", _own_vehicle, {"vehicle_file": "vehicle.yaml"}),
    Harmless("with a C++ header", _exported(formats=("cpp",))),
    Harmless("with a C++ header that is not built", lambda run, folder: with_header(run, folder), {"cpp": False}),
    Harmless("variants in narrower arithmetic and LEAPP's description", _exported_all),
    Harmless("a feature file without whole observations", _without_observations, {"observations": False}),
]
