"""``deploy-kit export``."""

from pathlib import Path
from typing import Any

import click

from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
from deploy_kit.cli.command import Command, under
from deploy_kit.cli.console import stdout
from deploy_kit.cli.options import (
    checkpoint_path_from,
    hints_from,
    next_command,
    policy_words,
    refuse_given,
    run_options,
    vehicle_option,
)
from deploy_kit.cli.progress import progress_bars
from deploy_kit.export.options import FORMATS, VARIANTS, ExportOptions
from deploy_kit.policy import shipped
from deploy_kit.task.racing import TASK_ID


class _BatchSize(click.ParamType[int | str]):
    name = "N|dynamic"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Parse a positive number or the word ``dynamic``."""
        if value == "dynamic":
            return "dynamic"
        if not str(value).isdigit() or int(value) < 1:
            self.fail(f"{value!r} is neither a positive number nor 'dynamic'", param, ctx)
        return int(value)


class _Names(click.ParamType[tuple[str, ...]]):
    name = "NAME,NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split at commas."""
        return value if isinstance(value, tuple) else tuple(str(value).split(","))


_graph, _samples, _output = under("Graph"), under("Golden samples"), under("Output")


@click.command(
    "export",
    cls=Command,
    examples={
        "deploy-kit export --checkpoint outputs/finetune --use-auxiliary-head --feature-file datasets/features.h5": (
            "policy and head in one file, checked on recorded rows"
        ),
        "deploy-kit export --checkpoint model_7998.pt --vehicle drone.yaml --output bundles/racer": (
            "a run without params/env.yaml"
        ),
        "deploy-kit export --checkpoint demo --batch-size 1 --physical-actions": "m/s² and rad/s, one image at a time",
        "deploy-kit export --checkpoint demo --format cpp": "with a C++ header that needs no runtime",
    },
)
@run_options
@_graph("--use-auxiliary-head", is_flag=True, help="Give the head's logit as second output.")
@_graph(
    "--gate-output",
    type=click.Choice([output.value for output in GateOutput]),
    default=ExportOptions.gate_output.value,
    help="What the second output holds.",
)
@_graph(
    "--input-layout",
    type=click.Choice([layout.value for layout in InputLayout]),
    default=ExportOptions.input_layout.value,
    help="State and depth, or one flat input.",
)
@_graph("--input-names", type=_Names(), metavar="NAME,NAME", help="Input names. [default: state,depth or obs]")
@_graph("--output-names", type=_Names(), metavar="NAME,NAME", help="Output names. [default: action,gate_logit]")
@_graph(
    "--batch-size",
    type=_BatchSize(),
    metavar="N|dynamic",
    default=ExportOptions.batch_size,
    help="Fixed or dynamic batch.",
)
@_graph(
    "--physical-actions", is_flag=True, help="Put tanh, scale and offset inside the graph: m/s² and rad/s come out."
)
@_graph("--opset", metavar="N", type=int, default=ExportOptions.opset, help="ONNX opset; what was written is asserted.")
@vehicle_option
@under("Vehicle")(
    "--task",
    metavar="ID",
    help="Task whose vehicle numbers to take, where the run has no params/env.yaml. [default for demo: the racing one]",
)
@_samples(
    "--feature-file",
    "feature_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Feature file for golden samples and replay. [default: synthetic samples]",
)
@_samples(
    "--num-golden",
    metavar="N",
    type=click.IntRange(min=1),
    default=ExportOptions.num_golden,
    help="How many at most.",
)
@_samples(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    default=ExportOptions.seed,
    help="Seed of synthetic samples and of random inputs.",
)
@_output(
    "--format",
    "formats",
    type=click.Choice(FORMATS),
    multiple=True,
    help="Add to the bundle: cpp, one C++17 header without a runtime (policy.hpp); cpp-fp16 or cpp-int8, the same with "
    "large matrices stored so (policy.fp16.hpp, policy.int8.hpp), judged by that profile; leapp, a description for "
    "LEAPP (leapp.yaml). May be repeated.",
)
@_output(
    "--variant",
    "variants",
    type=click.Choice(VARIANTS),
    multiple=True,
    help="Add the graph in narrower arithmetic, judged by that profile; int8 is calibrated on --feature-file. May be "
    "repeated.",
)
@_output(
    "--output",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Bundle folder. [default: bundles/<checkpoint>]",
)
@_output(
    "--sign",
    metavar="KEY",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Sign with a private key in PEM: Ed25519 for the drone, or P-256 as OpenSSF model signing. Repeatable.",
)
@_output("--overwrite", is_flag=True, help="Replace an existing bundle, once the new one has passed its checks.")
def export_command(**options: Any) -> None:
    """Write a checkpoint as a bundle: ONNX, TorchScript, safetensors, contract, golden samples, manifest.

    The bundle appears only after static checks, golden samples and, with --feature-file, replay have passed.
    """
    if not options["use_auxiliary_head"]:
        refuse_given("without --use-auxiliary-head", "gate_output")
    options["input_layout"] = InputLayout(options["input_layout"])
    options["gate_output"] = GateOutput(options["gate_output"])
    checkpoint = checkpoint_path_from(options)
    if options["task"] is None and checkpoint == shipped.DEMO_POLICY:
        options["task"] = TASK_ID
    settings = ExportOptions(checkpoint=checkpoint, hints=hints_from(options), **options)
    settings.check()

    from deploy_kit.export.exporter import export_bundle

    with progress_bars() as progress:
        folder = export_bundle(settings, progress)
    stdout.print(f"Wrote {folder}:")
    for path in sorted(folder.iterdir()):
        stdout.print(f"  {path.name:20} {path.stat().st_size:>12,} bytes")
    replay = ("--no-replay",) if settings.feature_file is None else ("--feature-file", settings.feature_file)
    words = policy_words(settings.hints, settings.vehicle_file)
    stdout.print(next_command("verify", folder, "--checkpoint", settings.checkpoint, *replay, *words))
