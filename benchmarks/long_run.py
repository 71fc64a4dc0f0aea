"""Collect for a long time at small scale; write memory and speed over time, and a plot.

Usage: python benchmarks/long_run.py [--minutes 60] [--num-envs 16] [--out long_run]

The demo policy flies in the embedded simulator and collects rows without end, a shard every 20 s. Once a second the
resident memory and the env steps so far are noted. Reported: memory after a tenth of the time and at the end, and the
speed in each tenth of the time.
"""

import argparse
import json
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from deploy_kit.collection.run import CollectOptions, collect
from deploy_kit.data.memory import resident_memory
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.sim.options import EnvOptions


class Notes(threading.Thread):
    """Notes memory and steps once a second, and ends the collection when its time is over."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(daemon=True)
        self._folder, self._seconds = folder, seconds
        self.rows: list[tuple[float, int, int]] = []

    def run(self) -> None:
        """Note until the time is over."""
        started = time.monotonic()
        while (now := time.monotonic() - started) < self._seconds:
            time.sleep(1.0)
            try:
                steps = json.loads((self._folder / "status-00000.json").read_bytes())["env_steps"]
            except (OSError, ValueError):
                continue
            self.rows.append((now, resident_memory(), steps))
        signal.raise_signal(signal.SIGINT)


def main() -> None:
    """Parse the command line, collect, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("long_run"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.h5"
        notes = Notes(Path(f"{path}.partial"), 60 * arguments.minutes)
        notes.start()
        env = EnvOptions(num_envs=arguments.num_envs, seed=1)
        result = collect(CollectOptions(DEMO_POLICY, path, env, num_positive=10**7, num_negative=10**7))
    seconds, memory, steps = np.array(notes.rows).T
    edges = np.linspace(0, len(seconds) - 1, 11).astype(int)
    report = {
        "minutes": arguments.minutes,
        "rows": result.num_positive + result.num_negative,
        "memory_mb_after_a_tenth": round(memory[edges[1]] / 2**20, 1),
        "memory_mb_at_the_end": round(memory[-1] / 2**20, 1),
        "steps_per_s_in_each_tenth": np.round(np.diff(steps[edges]) / np.diff(seconds[edges])).tolist(),
    }
    print(json.dumps(report))
    (arguments.out / "long_run.json").write_text(json.dumps({**report, "notes": notes.rows}))
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    axes[0].plot(seconds / 60, memory / 2**20)
    axes[0].set(xlabel="minutes", title="resident memory, MB", ylim=(0, None))
    axes[1].plot(seconds[edges[1:]] / 60, report["steps_per_s_in_each_tenth"], "o-")
    axes[1].set(xlabel="minutes", title="env steps/s", ylim=(0, None))
    figure.savefig(arguments.out / "long_run.png", dpi=120)


if __name__ == "__main__":
    main()
