"""``deploy-kit export``."""

from pathlib import Path
from typing import Any

import click

from deploy_kit.cli.console import Command, progress_bars, stdout
from deploy_kit.cli.options import checkpoint_path_from, hints_from, run_options, vehicle_option


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


@click.command("export", cls=Command)
@run_options
@click.option("--output", type=click.Path(path_type=Path), help="Bundle folder. [default: bundles/<checkpoint>]")
@click.option("--use-auxiliary-head", is_flag=True, help="Give the gate head as second output.")
@click.option(
    "--feature-file",
    "--samples",
    "feature_file",
    type=click.Path(path_type=Path),
    help="Feature file for golden samples and replay. [default: synthetic samples]",
)
@click.option("--input-layout", type=click.Choice(["split", "flat"]), default="split", help="State and depth, or one.")
@click.option("--input-names", type=_Names(), help="Input names. [default: state,depth or obs]")
@click.option("--output-names", type=_Names(), help="Output names. [default: action,gate_logit]")
@click.option("--gate-output", type=click.Choice(["logit", "probability"]), default="logit", help="Second output.")
@click.option("--opset", type=int, default=18, help="ONNX opset; what was written is asserted.")
@click.option("--batch-size", type=_BatchSize(), default="dynamic", help="Fixed or dynamic batch.")
@click.option(
    "--physical-actions", is_flag=True, help="Put tanh, scale and offset inside the graph: m/s² and rad/s come out."
)
@vehicle_option
@click.option(
    "--task",
    help="Task whose vehicle numbers to take, where the run has no params/env.yaml. [default for demo: the racing one]",
)
@click.option("--num-golden", type=click.IntRange(min=1), default=64, help="Golden samples.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the synthetic samples.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle, once the new one has passed its checks.")
def export_command(**options: Any) -> None:
    """Write a checkpoint as a bundle: ONNX, TorchScript, safetensors, contract, golden samples, manifest.

    The bundle appears only after static checks, golden samples and, with --feature-file, replay have passed.
    """
    from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
    from deploy_kit.export.exporter import ExportOptions, export_bundle
    from deploy_kit.policy.shipped import DEMO_POLICY
    from deploy_kit.task.racing import TASK_ID

    options["input_layout"] = InputLayout(options["input_layout"])
    options["gate_output"] = GateOutput(options["gate_output"])
    checkpoint = checkpoint_path_from(options)
    if options["task"] is None and checkpoint == DEMO_POLICY:
        options["task"] = TASK_ID
    settings = ExportOptions(checkpoint=checkpoint, hints=hints_from(options), **options)
    with progress_bars() as progress:
        folder = export_bundle(settings, progress)
    stdout.print(f"Wrote {folder}:")
    for path in sorted(folder.iterdir()):
        stdout.print(f"  {path.name:20} {path.stat().st_size:>12,} bytes")
    replay = "--no-replay" if settings.feature_file is None else f"--feature-file {settings.feature_file}"
    stdout.print(f"Next: deploy-kit verify {folder} --checkpoint {settings.checkpoint} {replay}")
