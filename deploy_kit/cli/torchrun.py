"""Starting a command once for each GPU, with ``torchrun`` (``torch.distributed.run``)."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

import click
from click.core import ParameterSource

from deploy_kit.cli.command import LAUNCHER_ARGUMENTS
from deploy_kit.cli.console import stdout
from deploy_kit.cli.options import typed_words


def typed_arguments(*left_out: str) -> list[str]:
    """Return the command and its options as they were typed, those of the launch left out.

    Args:
        left_out: names of parameters.
    """
    context = click.get_current_context()
    words = [str(context.info_name)]
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in left_out and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            words += typed_words(parameter, context.params.get(name))
    if launcher := context.meta.get(LAUNCHER_ARGUMENTS):
        words += ["--", *launcher]
    return words


def torchrun_command(processes: int, log_all_ranks: bool, arguments: Sequence[str]) -> list[str]:
    """Return the command line that starts deploy-kit in several processes of this machine.

    Args:
        processes: how many.
        log_all_ranks: whether all of them show what they print; else the first one alone.
        arguments: deploy-kit's own.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    if not log_all_ranks:
        launcher.append("--local-ranks-filter=0")
    return [*launcher, "-m", "deploy_kit", *arguments]


def launch(processes: int, log_all_ranks: bool, dry_run: bool) -> None:
    """Run the command that was typed in several processes, or print how.

    Args:
        processes: how many.
        log_all_ranks: whether all of them show what they print.
        dry_run: whether to print the command alone.

    Raises:
        click.exceptions.Exit: it did not end well.
    """
    command = torchrun_command(processes, log_all_ranks, typed_arguments("num_gpus", "log_all_ranks", "dry_run"))
    if dry_run:
        stdout.print(shlex.join(command))
    elif code := run_torchrun(command):
        raise click.exceptions.Exit(130 if code < 0 else code)


def run_torchrun(command: Sequence[str]) -> int:
    """Run a command and return its exit code; on Ctrl-C, which reaches its processes too, wait for them to store."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            return -signal.SIGINT
