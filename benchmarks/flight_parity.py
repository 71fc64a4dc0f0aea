"""Fly a checkpoint on both simulators over the same tracks, and compare.

One process a back end, since they may live on different machines:

    python benchmarks/flight_parity.py fly --backend mujoco   --checkpoint FILE --num-envs 1024 --output embedded.json
    python benchmarks/flight_parity.py fly --backend isaaclab --checkpoint FILE --num-envs 1024 --output isaaclab.json
    python benchmarks/flight_parity.py compare embedded.json isaaclab.json
    python benchmarks/flight_parity.py table embedded.json isaaclab.json

`fly` flies the first episode of every environment, for each kind of track with obstacles, randomisation off and on.
`compare` prints the difference of the means with its 95 % interval (root of the summed squared half widths), and for
gates and crashes also the interval of the differences by track: both simulators fly the same tracks, so that what the
tracks differ in cancels. `table` prints the rows of the table in docs/benchmarks.md, the second less the first.
"""

import argparse
import json
import math
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from deploy_kit.flight.fly import FlyOptions, fly
from deploy_kit.sim.options import EnvOptions

KINDS = ("circular", "zigzag", "ellipse")
FIGURES = ("gates_per_episode", "crash_rate", "mean_speed", "gate_auroc")


def fly_all(arguments: argparse.Namespace) -> None:
    """Fly every kind of track and write the statistics, after each flight."""
    flights: list[dict[str, Any]] = []
    for kind, randomised in product(arguments.tracks, (False, True)):
        options = EnvOptions(
            num_envs=arguments.num_envs,
            seed=arguments.seed,
            stage=2,
            tracks=(kind,),
            randomisation=randomised,
            track_pool=arguments.track_pool,
            num_threads=arguments.num_threads,
            device=arguments.device,
        )
        started = time.monotonic()
        result = fly(FlyOptions(policy=arguments.checkpoint, env=options, backend=arguments.backend))
        seconds = time.monotonic() - started
        flight = {"tracks": kind, "randomisation": randomised, "seconds": seconds, **result.statistics.to_json()}
        rows = [asdict(row) for row in result.flights[0].episodes]
        flights.append({"backend": arguments.backend, **flight, "rows": rows})
        print(kind, "randomised" if randomised else "nominal", f"{seconds:.0f} s", result.statistics, flush=True)
        arguments.output.write_text(json.dumps(flights))


def by_track(first: dict[str, Any], second: dict[str, Any], name: str) -> tuple[float, float] | None:
    """Return mean and half the 95 % interval of the second's mean on each track less the first's."""
    means = []
    for flight in (first, second):
        found: dict[int, list[float]] = {}
        for row in flight.get("rows", ()):
            found.setdefault(row["track_id"], []).append(float(row[name]))
        means.append({track: np.mean(values) for track, values in found.items()})
    common = sorted(means[0].keys() & means[1].keys())
    if len(common) < 2:
        return None
    difference = np.array([means[1][track] - means[0][track] for track in common])
    return float(difference.mean()), float(1.96 * difference.std(ddof=1) / math.sqrt(len(common)))


def compare(arguments: argparse.Namespace) -> None:
    """Print both back ends' figures side by side."""
    first, second = (json.loads(path.read_text()) for path in (arguments.first, arguments.second))
    print("| tracks | randomised | figure | first | second | difference | 95 % interval |")
    print("|---|---|---|---|---|---|---|")
    for a in first:
        for b in second:
            if (a["tracks"], a["randomisation"]) != (b["tracks"], b["randomisation"]):
                continue
            for figure in FIGURES:
                if a[figure] is None or b[figure] is None:
                    continue
                difference = b[figure]["mean"] - a[figure]["mean"]
                means = f"{a[figure]['mean']:.3f} | {b[figure]['mean']:.3f}"
                half = math.hypot(*((e["ci95"][1] - e["ci95"][0]) / 2 for e in (a[figure], b[figure])))
                print(
                    f"| {a['tracks']} | {a['randomisation']} | {figure} | {means} | {difference:+.3f} | "
                    f"{difference - half:+.3f} … {difference + half:+.3f} |"
                )
            for name in ("gates", "crashed", "steps"):
                if (paired := by_track(a, b, name)) is not None:
                    print(
                        f"| {a['tracks']} | {a['randomisation']} | {name}, by track | | | {paired[0]:+.3f} | "
                        f"{paired[0] - paired[1]:+.3f} … {paired[0] + paired[1]:+.3f} |"
                    )


def table(arguments: argparse.Namespace) -> None:
    """Print the rows of the table in the documentation."""
    first, second = (json.loads(path.read_text()) for path in (arguments.first, arguments.second))
    flown = {(flight["tracks"], flight["randomisation"]): flight for flight in first}
    print("| tracks | vehicle | gates, second | first | difference | crashed %, second | first | difference | ", end="")
    print("speed, m/s | gate AUROC |\n|" + "---|" * 10)
    for b in second:
        if (a := flown.get((b["tracks"], b["randomisation"]))) is None:
            continue
        cells = [b["tracks"], "randomised" if b["randomisation"] else "nominal"]
        for figure, scale, digits in (("gates_per_episode", 1, 2), ("crash_rate", 100, 1)):
            means = [scale * flight[figure]["mean"] for flight in (b, a)]
            half = scale * math.hypot(*((f[figure]["ci95"][1] - f[figure]["ci95"][0]) / 2 for f in (a, b)))
            difference = means[0] - means[1]
            interval = f"{difference - half:+.{digits}f} to {difference + half:+.{digits}f}"
            cells += [*(f"{mean:.{digits}f}" for mean in means), f"{difference:+.{digits}f} ({interval})"]
        for figure, digits in (("mean_speed", 2), ("gate_auroc", 3)):
            cells.append(" / ".join("–" if f[figure] is None else f"{f[figure]['mean']:.{digits}f}" for f in (b, a)))
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    flying = commands.add_parser("fly")
    flying.add_argument("--backend", choices=("mujoco", "isaaclab"), required=True)
    flying.add_argument("--checkpoint", type=Path, required=True)
    flying.add_argument("--num-envs", type=int, default=1024)
    flying.add_argument("--track-pool", type=int, default=256, help="Tracks of each kind.")
    flying.add_argument("--seed", type=int, default=0)
    flying.add_argument("--device", default="cpu")
    flying.add_argument("--num-threads", type=int, help="Threads of the embedded simulator. [default: one a core]")
    flying.add_argument("--tracks", nargs="+", choices=KINDS, default=KINDS)
    flying.add_argument("--output", type=Path, required=True)
    flying.set_defaults(run=fly_all)
    for name, run in (("compare", compare), ("table", table)):
        comparing = commands.add_parser(name)
        comparing.add_argument("first", type=Path)
        comparing.add_argument("second", type=Path)
        comparing.set_defaults(run=run)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
