"""``deploy-kit log``."""

from pathlib import Path

import click

from deploy_kit.cli.command import Command, under
from deploy_kit.cli.console import stdout
from deploy_kit.errors import OptionError


@click.command(
    "log",
    cls=Command,
    examples={"deploy-kit log convert flight.dklog flight.mcap": "open it in Foxglove"},
)
@click.argument("action", type=click.Choice(["convert"]))
@click.argument("log", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@under("Output")("--overwrite", is_flag=True, help="Replace an existing file.")
def log_command(action: str, log: Path, target: Path, overwrite: bool) -> None:
    """Convert LOG, which the onboard runner wrote, to TARGET, an MCAP file that Foxglove reads.

    Needs the package mcap: pip install "deploy-kit[logs]". deploy-kit inspect sums a log up, verify --flight judges it.
    """
    if target.suffix != ".mcap":
        raise OptionError(f"TARGET {target} is no .mcap file: that is what a log is converted to")
    if target.exists() and not overwrite:
        raise OptionError(f"{target} exists: choose another name, or give --overwrite")
    from deploy_kit.flightlog.mcap_file import write_mcap
    from deploy_kit.flightlog.reader import open_flight_log

    with open_flight_log(log) as opened:
        count = write_mcap(opened, target)
        if opened.cut:
            stdout.print(f"{log}: {opened.cut}")
    stdout.print(f"{target}: {count} messages of {len(opened.records)} records")
