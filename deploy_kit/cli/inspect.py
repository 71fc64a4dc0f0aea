"""``deploy-kit inspect``."""

import json
from pathlib import Path
from typing import Any

import click

from deploy_kit.cli.console import Command, stdout
from deploy_kit.cli.options import hints_from, network_options


@click.command("inspect", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@network_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect_command(file: Path, as_json: bool, **options: Any) -> None:
    """Show what FILE holds: a checkpoint, a run folder's latest checkpoint, a feature file, or a bundle."""
    from deploy_kit.errors import InputError
    from deploy_kit.policy.shipped import resolve_name

    file = resolve_name(file)
    if not file.exists():
        raise InputError(f"{file} does not exist; give a checkpoint, a feature file (.h5) or a bundle folder")
    if file.is_dir() and not (file / "manifest.json").is_file():
        file = _latest_in_run(file)
    if file.is_dir():
        kind, content = "bundle", _bundle(file)
    elif file.suffix == ".h5":
        kind, content = "feature file", _feature_file(file)
    else:
        kind, content = "checkpoint", _checkpoint(file, options)
    if as_json:
        click.echo(json.dumps({"kind": kind, **content}, indent=2, allow_nan=True))
    else:
        _show(kind, file, content)


def _latest_in_run(folder: Path) -> Path:
    from deploy_kit.errors import CheckpointError, InputError
    from deploy_kit.policy.run.directory import CheckpointQuery, resolve_checkpoint

    try:
        return resolve_checkpoint(CheckpointQuery(checkpoint=str(folder)))
    except CheckpointError as error:
        raise InputError(f"{folder} is neither a bundle (no manifest.json) nor a run folder ({error})") from error


def _checkpoint(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    from deploy_kit.policy.checkpoint import load_checkpoint
    from deploy_kit.policy.summary import describe_checkpoint

    return describe_checkpoint(load_checkpoint(path, hints_from(options)))


def _feature_file(path: Path) -> dict[str, Any]:
    from deploy_kit.data.reader import open_feature_file
    from deploy_kit.data.summary import describe_feature_file

    with open_feature_file(path) as file:
        return describe_feature_file(file)


def _bundle(path: Path) -> dict[str, Any]:
    from deploy_kit.bundle.reader import open_bundle

    bundle = open_bundle(path)
    golden = bundle.golden
    return {
        "path": str(path),
        "files": bundle.files,
        "golden_samples": {"count": len(golden), "source": golden.source},
        "contract": json.loads(bundle.contract.to_json()),
    }


def _show(kind: str, path: Path, content: dict[str, Any]) -> None:
    from rich.tree import Tree

    tree = Tree(f"[bold]{kind}[/bold] {path}")
    _grow(tree, content)
    stdout.print(tree, soft_wrap=False)


def _grow(tree: Any, content: dict[str, Any]) -> None:
    from rich.markup import escape

    for name, value in content.items():
        if isinstance(value, dict):
            _grow(tree.add(f"[bold]{escape(name)}[/bold]"), value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            branch = tree.add(f"[bold]{escape(name)}[/bold]")
            for index, item in enumerate(value):
                _grow(branch.add(escape(str(item.get("name", index)))), item)
        else:
            tree.add(f"{escape(name)}: {escape(_plain(value))}")


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)
