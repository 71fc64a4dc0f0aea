"""Collect for a long time at small scale; write memory and speed over time, and a plot.

Usage: python benchmarks/long_run.py [--minutes 60] [--num-envs 16] [--num-threads 1] [--out long_run]

The demo policy flies in the embedded simulator and collects rows without end, a shard every 20 s. Once a second the
resident memory, the processor time and the env steps so far are noted. Reported: memory after a tenth of the time and
at the end, and the speed in each tenth of the time, by the clock and by processor time (which other programs on the
machine disturb less).
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
        self.rows: list[tuple[float, int, int, float]] = []

    def run(self) -> None:
        """Note until the time is over."""
        started = time.monotonic()
        while (now := time.monotonic() - started) < self._seconds:
            time.sleep(1.0)
            try:
                status = json.loads((self._folder / "status-00000.json").read_bytes())
            except (OSError, ValueError):
                continue
            self.rows.append((now, resident_memory(), status["env_steps"], status["cpu_s"]))
        signal.raise_signal(signal.SIGINT)


def main() -> None:
    """Parse the command line, collect, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("long_run"))
    arguments = parser.parse_args()
    # A script that was begun with `nohup … &` ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.h5"
        notes = Notes(Path(f"{path}.partial"), 60 * arguments.minutes)
        notes.start()
        env = EnvOptions(num_envs=arguments.num_envs, num_threads=arguments.num_threads, seed=1)
        result = collect(CollectOptions(DEMO_POLICY, path, env, num_positive=10**7, num_negative=10**7))
    seconds, memory, steps, cpu = np.array(notes.rows).T
    edges = np.linspace(0, len(seconds) - 1, 11).astype(int)
    by_clock, by_cpu = (np.diff(steps[edges]) / np.diff(time_s[edges]) for time_s in (seconds, cpu))
    report = {
        "minutes": arguments.minutes,
        "rows": result.num_positive + result.num_negative,
        "env_steps": result.env_steps,
        "memory_mb_after_a_tenth": round(memory[edges[1]] / 2**20, 1),
        "memory_mb_at_the_end": round(memory[-1] / 2**20, 1),
        "steps_per_s_in_each_tenth": np.round(by_clock).tolist(),
        "steps_per_cpu_s_in_each_tenth": np.round(by_cpu).tolist(),
    }
    print(json.dumps(report))
    (arguments.out / "long_run.json").write_text(json.dumps({**report, "notes": notes.rows}))
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    axes[0].plot(seconds / 60, memory / 2**20)
    axes[0].set(xlabel="minutes", title="resident memory, MB", ylim=(0, None))
    middle = (seconds[edges[1:]] + seconds[edges[:-1]]) / 120
    axes[1].plot(middle, by_clock, "o-", label="by the clock")
    axes[1].plot(middle, by_cpu, "s-", label="by processor time")
    axes[1].set(xlabel="minutes", title="env steps/s", ylim=(0, None))
    axes[1].legend()
    figure.savefig(arguments.out / "long_run.png", dpi=120)


if __name__ == "__main__":
    main()
