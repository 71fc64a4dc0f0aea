"""``deploy-kit inspect``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.cli.command import Command, under
from deploy_kit.cli.console import stdout
from deploy_kit.cli.file_kind import FileKind, kind_of
from deploy_kit.cli.options import (
    NETWORK_PARAMETERS,
    RUN_PARAMETERS,
    checkpoint_path_from,
    hints_from,
    refuse_given,
    run_options,
)

if TYPE_CHECKING:
    from deploy_kit.policy.network_hints import NetworkHints


_NETWORKS = (FileKind.CHECKPOINT, FileKind.RUN, FileKind.FINETUNING)
"""What holds a network whose parameters the user may have to give."""


@click.command(
    "inspect",
    cls=Command,
    examples={
        "deploy-kit inspect bundles/racer": "a bundle",
        "deploy-kit inspect datasets/features.h5 --json": "a feature file, for a script",
        "deploy-kit inspect --experiment_name racing": "the latest checkpoint of an experiment",
    },
)
@click.argument("file", required=False, type=click.Path())
@run_options
@under("Output")("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect_command(file: str | None, as_json: bool, **options: Any) -> None:
    """Show what FILE is and holds; nothing in it is executed.

    FILE is a checkpoint, a feature file, a vehicle file, the JSON file of fly, a flight log, any file of a bundle
    (policy.onnx, policy.pt, contract.json, golden.npz, manifest.json, report.json), finetune's metrics.json, or a
    folder: a bundle, a run, or what finetune wrote. demo is the policy that comes with deploy-kit. Instead of FILE, a
    checkpoint can be named with --checkpoint and its companions.
    """
    from deploy_kit.policy.shipped import resolve_name

    if file is None:
        path = checkpoint_path_from(options)
    else:
        refuse_given("with FILE, which names the policy", *RUN_PARAMETERS)
        path = resolve_name(file)
    kind = kind_of(path)
    if kind not in _NETWORKS:
        refuse_given(f"on what is no checkpoint ({kind})", *NETWORK_PARAMETERS)
    content = _describe(kind, path, hints_from(options))
    if as_json:
        click.echo(json.dumps({"kind": kind, **content}, indent=2, allow_nan=True))
    else:
        _show(kind, path, content)


def _describe(kind: FileKind, path: Path, hints: "NetworkHints") -> dict[str, Any]:
    match kind:
        case FileKind.CHECKPOINT:
            return _checkpoint(path, hints)
        case FileKind.RUN | FileKind.FINETUNING:
            return _folder(path, hints)
        case FileKind.FEATURE_FILE:
            return _feature_file(path)
        case FileKind.REPORT:
            from deploy_kit.verify.summary import describe_report

            return describe_report(path)
        case FileKind.BUNDLE:
            from deploy_kit.bundle.summary import describe_bundle
            from deploy_kit.verify.summary import describe_verification

            return {"verification": describe_verification(path), **describe_bundle(path)}
        case FileKind.METRICS:
            from deploy_kit.finetuning.summary import describe_metrics

            return describe_metrics(path)
        case FileKind.FLIGHT:
            from deploy_kit.flight.summary import describe_flight

            return describe_flight(path)
        case FileKind.FLIGHT_LOG:
            from deploy_kit.flightlog.summary import describe_flight_log

            return describe_flight_log(path)
        case FileKind.VEHICLE:
            from deploy_kit.policy.run.vehicle import describe_vehicle_file

            return describe_vehicle_file(path)
        case _:
            return _file_of_bundle(kind, path)


def _checkpoint(path: Path, hints: "NetworkHints") -> dict[str, Any]:
    from deploy_kit.policy.checkpoint import load_checkpoint
    from deploy_kit.policy.policy_checkpoint import load_other_policy
    from deploy_kit.policy.summary import describe_checkpoint, describe_policy

    other = load_other_policy(path, hints)
    return describe_checkpoint(load_checkpoint(path, hints)) if other is None else describe_policy(other)


def _folder(path: Path, hints: "NetworkHints") -> dict[str, Any]:
    from deploy_kit.finetuning.summary import describe_finetuning
    from deploy_kit.policy.run.directory import CheckpointQuery, checkpoints_in, resolve_checkpoint

    training, finetuned = checkpoints_in(path)
    taken = resolve_checkpoint(CheckpointQuery(checkpoint=str(path.absolute())))
    if training:
        described = {"path": str(path), "checkpoints": [file.name for file in training]}
    else:
        described = describe_finetuning(path, finetuned)
    return {**described, "taken_for_a_checkpoint": taken.name, "checkpoint": _checkpoint(taken, hints)}


def _feature_file(path: Path) -> dict[str, Any]:
    from deploy_kit.data.reader import open_feature_file
    from deploy_kit.data.summary import describe_feature_file

    with open_feature_file(path) as file:
        return describe_feature_file(file)


def _file_of_bundle(kind: FileKind, path: Path) -> dict[str, Any]:
    from deploy_kit.bundle import summary

    describe = {
        FileKind.ONNX: summary.describe_onnx,
        FileKind.TORCHSCRIPT: summary.describe_torchscript,
        FileKind.ARRAYS: summary.describe_arrays,
        FileKind.CONTRACT: summary.describe_contract,
        FileKind.MANIFEST: summary.describe_manifest,
    }[kind]
    return describe(path)


def _show(kind: str, path: Path, content: dict[str, Any]) -> None:
    from deploy_kit.text import printable

    lines = (f"{'  ' * depth}{printable(line)}" for depth, line in _lines(content, 1))
    stdout.print("\n".join([f"{kind} {path}", *lines]))


def _lines(content: dict[str, Any], depth: int) -> Iterator[tuple[int, str]]:
    """Yield depth and text of each line, branches before what hangs on them."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield depth, str(name)
            yield from _lines(value, depth + 1)
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            yield depth, str(name)
            for index, item in enumerate(value):
                yield depth + 1, str(item.get("name", index))
                yield from _lines({key: field for key, field in item.items() if key != "name"}, depth + 2)
        else:
            yield depth, f"{name}: {_plain(value)}"


def _plain(value: Any) -> str:
    if value is None or value in ([], {}, ()):
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return str(value)
