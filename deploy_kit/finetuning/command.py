"""The command lines that messages tell the user to type."""

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from deploy_kit.errors import InputError
from deploy_kit.finetuning.options import FinetuneOptions
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.policy.run.vehicle import resolve_vehicle


def command_line(options: FinetuneOptions, **changes: Any) -> str:
    """Return the finetune command with these options; what is at its default is left out.

    Args:
        options: options of a finetuning.
        changes: options to replace.
    """
    changed = replace(options, **changes)
    given = changed.feature_files if isinstance(changed.feature_files, tuple) else (changed.feature_files,)
    words: list[str] = ["deploy-kit", "finetune"]
    for path in given:
        words += ["--feature-file", str(path)]
    words += ["--checkpoint", str(changed.checkpoint), "--output", str(changed.output)]
    for field in fields(FinetuneOptions):
        if field.name not in ("feature_files", "checkpoint", "output", "hints"):
            words += _words(field.name, getattr(changed, field.name), field.default)
    for field in fields(changed.hints):
        words += _words(field.name, getattr(changed.hints, field.name), field.default)
    return shlex.join(words)


def _words(name: str, value: Any, default: Any) -> list[str]:
    option = name.replace("_", "-")
    if value == default:
        return []
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    if isinstance(value, tuple):
        return [f"--{option}", "x".join(map(str, value))]
    return [f"--{option}", str(value)]


def export_command_line(checkpoint: Path, options: FinetuneOptions) -> str:
    """Return the export command for a finetuned checkpoint.

    Args:
        checkpoint: the finetuned checkpoint.
        options: options of the finetuning.
    """
    words = ["deploy-kit", "export", "--checkpoint", str(checkpoint), "--use-auxiliary-head"]
    words += ["--feature-file", str(options.paths()[0])]
    try:
        source = load_policy(checkpoint, options.hints)
        if isinstance(source, Checkpoint):
            resolve_vehicle(source.params)
    except InputError:
        words += ["--vehicle", "FILE"]
    return shlex.join(words)
