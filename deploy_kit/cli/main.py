"""Entry point of the ``deploy-kit`` command."""

import importlib
from typing import Any

import click

from deploy_kit import __version__

_COMMANDS = {
    "demo": "See the whole job on the policy that comes with deploy-kit, in two minutes.",
    "collect": "Fly a policy in simulation and store its features with gate labels (HDF5).",
    "finetune": "Train the gate head on collected features; everything else stays frozen.",
    "export": "Write the policy as a bundle: ONNX, TorchScript, safetensors, contract.",
    "verify": "Prove that a bundle does what its checkpoint does.",
    "fly": "Fly a checkpoint or a bundle and report statistics and pictures.",
    "inspect": "Show what a checkpoint, feature file or bundle holds.",
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called: ``--help`` loads no torch."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"deploy_kit.cli.{name}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, args)
        except click.exceptions.NoSuchCommand as error:
            # click looks for similar names among registered commands only, and ours are not imported yet.
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=_COMMANDS, ctx=context) from None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands, in the order of the work"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="deploy-kit")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def main(verbose: bool) -> Any:
    """Take a trained vision racing policy from the simulator onto the drone.

    collect → finetune → export → verify. Every step reads and writes files, so each can be run alone.

    Exit codes: 0 done; 1 a check failed; 2 bad usage or input; 130 interrupted.
    """
    from deploy_kit.cli.console import set_up_logging

    set_up_logging(verbose)
