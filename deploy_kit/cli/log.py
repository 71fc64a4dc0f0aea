"""``deploy-kit log``."""

from pathlib import Path

import click

from deploy_kit.cli.command import Command, under
from deploy_kit.cli.console import stdout
from deploy_kit.errors import OptionError

_IMPORT = "Import"
_import = under(_IMPORT)


@click.command(
    "log",
    cls=Command,
    examples={
        "deploy-kit log convert flight.dklog flight.mcap": "open it in Foxglove",
        "deploy-kit log import flight.mcap flight.dklog": "back again: the same records",
        "deploy-kit log import flight.ulg flight.dklog --mapping px4.yaml --bundle bundles/racer": (
            "a flight that another stack logged, to be verified"
        ),
    },
)
@click.argument("action", type=click.Choice(["convert", "import"]))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@_import(
    "--mapping",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="YAML or JSON: which topics are the policy's inputs and outputs, in which units and axes.",
)
@_import("--bundle", metavar="FOLDER", type=click.Path(path_type=Path), help="Bundle that flew.")
@under("Output")("--overwrite", is_flag=True, help="Replace an existing file.")
@under("Output")("--without-records", is_flag=True, help="convert: leave out what import reads back; half the size.")
def log_command(
    action: str,
    source: Path,
    target: Path,
    mapping: Path | None,
    bundle: Path | None,
    overwrite: bool,
    without_records: bool,
) -> None:
    """Convert a flight log to MCAP, or import a flight that another stack logged.

    convert: SOURCE is a flight log that the onboard runner wrote, TARGET an MCAP file that Foxglove reads. import:
    SOURCE is an MCAP file, a ULog or a rosbag2, TARGET a flight log that verify --flight replays.

    Needs packages: pip install "deploy-kit[logs]". deploy-kit inspect sums a log up, verify --flight judges it.
    """
    suffix = ".mcap" if action == "convert" else ".dklog"
    if target.suffix != suffix:
        what = "a log is converted to" if action == "convert" else "a log is imported to"
        raise OptionError(f"TARGET {target} is no {suffix} file: that is what {what}")
    if target.exists() and not overwrite:
        raise OptionError(f"{target} exists: choose another name, or give --overwrite")
    if action == "convert":
        _convert(source, target, mapping, bundle, not without_records)
    elif without_records:
        raise OptionError("--without-records belongs to convert")
    else:
        _import_log(source, target, mapping, bundle)


def _convert(log: Path, target: Path, mapping: Path | None, bundle: Path | None, records: bool) -> None:
    if mapping is not None or bundle is not None:
        raise OptionError("--mapping and --bundle belong to import")
    from deploy_kit.flightlog.mcap_file import write_mcap
    from deploy_kit.flightlog.reader import open_flight_log

    with open_flight_log(log) as opened:
        count = write_mcap(opened, target, records)
        if opened.cut:
            stdout.print(f"{log}: {opened.cut}")
    stdout.print(f"{target}: {count} messages of {len(opened.records)} records")


def _import_log(source: Path, target: Path, mapping: Path | None, bundle: Path | None) -> None:
    from deploy_kit.flightlog.importing import import_log
    from deploy_kit.flightlog.mapping import read_mapping
    from deploy_kit.flightlog.mcap_file import holds_records, read_back
    from deploy_kit.flightlog.sources.mcap_source import McapSource
    from deploy_kit.flightlog.sources.opening import open_source

    opened = open_source(source)
    if mapping is None:
        if bundle is None and isinstance(opened, McapSource) and holds_records(source):
            stdout.print(f"{target}: {read_back(source, target)} records, as they were recorded")
            return
        raise OptionError(
            f"{source} does not hold the records of a flight log: give --mapping FILE, which names the policy's inputs "
            "and outputs in it (docs/flight-log.md), and --bundle FOLDER"
        )
    if bundle is None:
        raise OptionError("--mapping needs --bundle, the bundle that flew: its contract says what the policy observes")
    result = import_log(source, target, bundle, read_mapping(mapping))
    for reason, count in result.left_out.items():
        stdout.print(f"{source}: {count} steps left out, without {reason}")
    if result.lacks:
        stdout.print(f"{source}: not mapped: {', '.join(result.lacks)}; verify leaves out what needs them")
    stdout.print(f"{target}: {result.steps} steps")
