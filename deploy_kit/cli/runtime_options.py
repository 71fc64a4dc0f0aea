"""Options of commands that run a graph in onnxruntime, in one way or in several."""

from collections.abc import Callable
from typing import Any

import click

from deploy_kit.bench.options import BenchOptions
from deploy_kit.bundle.runtime import EXECUTION_PROVIDERS, LEVELS
from deploy_kit.cli.command import compose, under
from deploy_kit.verify.options import VerifyOptions

_runtime = under("Runtimes")


def runtime_options(
    defaults: type[BenchOptions] | type[VerifyOptions], several: str, tf32: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the options that choose runtimes.

    Args:
        defaults: the command's options.
        several: what becomes of several ones, for the help.
        tf32: what the help says of TF32 besides.
    """
    return compose(
        _runtime(
            "--provider",
            "providers",
            type=click.Choice(list(EXECUTION_PROVIDERS)),
            multiple=True,
            default=defaults.providers,
            help=f"Execution provider of onnxruntime. Repeatable{several}.",
        ),
        _runtime(
            "--optimisation-level",
            "optimisation_levels",
            type=click.Choice(list(LEVELS)),
            multiple=True,
            default=defaults.optimisation_levels,
            help="Graph optimisation of onnxruntime. Repeatable, likewise.",
        ),
        _runtime(
            "--onnx-threads",
            metavar="N",
            type=click.IntRange(min=1),
            multiple=True,
            default=defaults.onnx_threads,
            help="Threads of one inference. Repeatable, likewise.",
        ),
        _runtime("--tf32", is_flag=True, help=f"Let CUDA round to TF32{tf32}."),
    )
