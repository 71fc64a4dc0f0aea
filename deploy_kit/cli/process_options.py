"""Options of ``verify`` about several processes."""

from typing import Any

import click

from deploy_kit.cli.command import compose, under
from deploy_kit.cli.options import refuse_given
from deploy_kit.errors import OptionError
from deploy_kit.verify.options import VerifyOptions

_processes = under("Several processes")

process_options = compose(
    _processes(
        "--num-processes",
        metavar="N",
        type=click.IntRange(min=1),
        default=VerifyOptions.num_processes,
        help="Processes that fly live episodes, each with a simulator of its own.",
    ),
    _processes(
        "--num-gpus",
        metavar="N",
        type=click.IntRange(min=1),
        help="The same, one process for each of N GPUs of this machine; needs --device cuda.",
    ),
    _processes(
        "--shares",
        metavar="N",
        type=click.IntRange(min=1),
        help="Divide live episodes into so many shares with seeds of their own: the same shares give the same verdict "
        "in any number of processes. [default: one a process]",
    ),
    _processes(
        "--log-all-ranks", is_flag=True, help="Show what every process prints, not only the first one's output."
    ),
)


def processes_from(num_gpus: int | None, options: dict[str, Any]) -> int:
    """Return how many processes fly.

    Args:
        num_gpus: what ``--num-gpus`` says.
        options: the command's other options.

    Raises:
        OptionError: two options contradict each other.
    """
    count: int = options["num_processes"]
    if num_gpus is not None:
        if count > 1:
            raise OptionError("--num-gpus starts a process a GPU, --num-processes some on the CPU; give one of them")
        if not options["device"].startswith("cuda"):
            raise OptionError(f"--num-gpus {num_gpus}: --device {options['device']} is no GPU; give --device cuda")
        count = num_gpus
    if count == 1:
        refuse_given("with one process", "log_all_ranks")
    return count
