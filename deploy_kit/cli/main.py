"""Entry point of the ``deploy-kit`` command."""

from pathlib import Path
from typing import Any

import click

from deploy_kit import __version__
from deploy_kit.cli.command import Group
from deploy_kit.links import links_problem

_COMMANDS = {
    "demo": "See the whole job on the policy that comes with deploy-kit, in two minutes.",
    "collect": "Fly a policy in simulation and store its features with labels (HDF5).",
    "finetune": "Train the head on collected features; everything else stays frozen.",
    "judge": "Judge the head that a checkpoint has and give it a detector, without training.",
    "export": "Write the policy as a bundle: ONNX, TorchScript, safetensors, contract.",
    "verify": "Prove that a bundle does what its checkpoint does.",
    "bench": "Time a bundle: each artifact in each engine, side by side.",
    "fly": "Fly a checkpoint or a bundle and report statistics and pictures.",
    "log": "Convert a log of a flight, for Foxglove.",
    "inspect": "Show what a checkpoint, feature file or bundle holds.",
}

_SECTIONS = {
    "Exit codes": ["0 done; 1 a check failed; 2 bad usage or input; 130 interrupted."],
    "Completion of commands and options in the shell (zsh and fish alike)": [
        'eval "$(_DEPLOY_KIT_COMPLETE=bash_source deploy-kit)"    # in ~/.bashrc'
    ],
    "Examples": [
        "deploy-kit demo",
        "deploy-kit collect --checkpoint model_7998.pt --feature-file features.h5 --num-envs 16",
        "deploy-kit verify bundles/racer --checkpoint model_7998.pt --no-replay",
    ],
}


class _Main(Group):
    """The command line, which says what is wrong with a checkout before it fails at it."""

    def main(self, *arguments: Any, **settings: Any) -> Any:
        """Run the command line."""
        if problem := links_problem(Path(__file__).resolve().parents[1]):
            click.echo(f"Error: {problem}", err=True)
            raise SystemExit(2)
        return super().main(*arguments, **settings)


@click.group(cls=_Main, lazy=_COMMANDS, epilog_sections=_SECTIONS)
@click.version_option(__version__, prog_name="deploy-kit")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def main(verbose: bool) -> Any:
    """Take a trained vision racing policy from the simulator onto the drone.

    collect → finetune → export → verify. Every step reads and writes files, so each can be run alone.
    """
