"""Fly policies over every kind of track, with and without obstacles, as nominal and as randomised vehicles.

    python benchmarks/reference_flights.py demo --output demo.json
    python benchmarks/reference_flights.py FILE --num-envs 192 --backend isaaclab --device cuda:0 --output gpu.json
    python benchmarks/reference_flights.py FILE --variants --tracks zigzag --obstacles with --output variants.json

Stage 2, the first episode of every environment. The table shows mean gates an episode and the share that crashed, both
with half of their 95 % interval. The file holds every figure, and is written after each flight.

`--variants` flies, beside the task as it is, what the page "The embedded simulator" calls deviations from MasterRacing:
gates that follow cyclically, levels of difficulty, neighbouring tiles.
"""

import argparse
import json
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from deploy_kit.flight.fly import FlyOptions, fly
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.sim.options import EnvOptions

KINDS = ("circular", "ellipse", "zigzag")
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "cyclic finish": {"finish": "cyclic"},
    "levels": {"levels": True},
    "levels, neighbours": {"levels": True, "neighbours": True},
}


def main() -> None:
    """Parse the command line, fly, and print a row as soon as it is flown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", help="checkpoint, or demo")
    parser.add_argument("--num-envs", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tracks", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--obstacles", nargs="+", choices=("with", "without"), default=("with", "without"))
    parser.add_argument("--vehicle", nargs="+", choices=("nominal", "randomised"), default=("nominal", "randomised"))
    parser.add_argument("--variants", action="store_true", help="fly the options that give MasterRacing's own rules")
    parser.add_argument("--backend", choices=("mujoco", "isaaclab"), default="mujoco")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    policy = DEMO_POLICY if arguments.policy == "demo" else Path(arguments.policy)
    variants = VARIANTS if arguments.variants else {"as it is": {}}
    print("| tracks | obstacles | vehicle | variant | gates | crashed | mean speed, m/s | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    flights: list[dict[str, Any]] = []
    for kind, obstacles, vehicle, (name, changes) in product(
        arguments.tracks, arguments.obstacles, arguments.vehicle, variants.items()
    ):
        if "finish" in changes and kind != "zigzag":
            continue
        options = EnvOptions(
            num_envs=arguments.num_envs,
            seed=arguments.seed,
            tracks=(kind,),
            obstacles=obstacles == "with",
            randomisation=vehicle == "randomised",
            num_threads=arguments.threads,
            device=arguments.device,
        )
        started = time.monotonic()
        env = replace(options, **changes)
        statistics = fly(FlyOptions(policy=policy, env=env, backend=arguments.backend)).statistics
        seconds = time.monotonic() - started
        gates, crashed, speed = statistics.gates_per_episode, statistics.crash_rate, statistics.mean_speed
        spread = [(estimate.ci95[1] - estimate.ci95[0]) / 2 for estimate in (gates, crashed)]
        print(
            f"| {kind} | {obstacles} | {vehicle} | {name} | {gates.mean:.2f} ± {spread[0]:.2f} | "
            f"{100 * crashed.mean:.0f} ± {100 * spread[1]:.0f} % | {speed.mean:.2f} | {seconds:.0f} |",
            flush=True,
        )
        row = {"tracks": kind, "obstacles": obstacles, "vehicle": vehicle, "variant": name, "seconds": seconds}
        flights.append({**row, **statistics.to_json()})
        arguments.output.write_text(json.dumps(flights, indent=1))


if __name__ == "__main__":
    main()
