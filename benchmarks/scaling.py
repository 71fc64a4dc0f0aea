"""Measure how collect, finetune and verify scale over the GPUs, or over processes, of one machine.

Usage, on a machine with GPUs and Isaac Lab:
    python benchmarks/scaling.py --backend isaaclab --gpus 1 2 4 --num-envs 8192 --rows 1000000 --out scaling
Usage, on a CPU with the embedded simulator:
    python benchmarks/scaling.py --processes 1 2 --num-envs 16 --rows 500 --episodes 32 --out scaling

For each number N, back to back: `collect` of so many rows of each class, `finetune` with Adam on the rows of the first
collection, and `verify` with so many live episodes of a bundle of the checkpoint, with N processes. Each command is run
as a user would type it. Written to the folder: scaling.json (everything), scaling.md (a table), scaling.png. With
--append, numbers that the folder's scaling.json holds already are not measured again, so that a machine that is lent
for some minutes at a time can be used.

What is compared: wall seconds of the whole command, env steps/s of the flights alone (all processes together, from the
first step to the last), efficiency against the smallest N, seconds that each process waited (for its disk, or for the
others), CPU seconds a process; and whether results agree: prevalence of the unions within 5 standard errors, means of
the positives' features, heads to float tolerance, verdicts, mean gates of the flights in standard errors.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[1]


class Watch(threading.Thread):
    """Reads the status files of a collection while it runs.

    Attributes:
        last: what each process said last.
        first_step_s: when the first training step was seen, s.
        steps: pairs of seconds and env steps of all processes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self.ended = folder, threading.Event()
        self.last: dict[int, dict[str, Any]] = {}
        self.steps: list[tuple[float, int]] = []

    def run(self) -> None:
        """Look ten times a second."""
        while not self.ended.wait(0.1):
            for path in self._folder.glob("status-*.json"):
                try:
                    status = json.loads(path.read_bytes())
                except (OSError, ValueError):
                    continue
                self.last[status["rank"]] = status
            total = sum(status["env_steps"] for status in self.last.values())
            if total and (not self.steps or total != self.steps[-1][1]):
                self.steps.append((time.monotonic(), total))

    @property
    def speed(self) -> float | None:
        """Env steps/s between a tenth and nine tenths of all steps, None if too little was seen."""
        if len(self.steps) < 5:
            return None
        time_, steps = np.array(self.steps).T
        inner = (steps >= 0.1 * steps[-1]) & (steps <= 0.9 * steps[-1])
        if inner.sum() < 2:
            return None
        return float((steps[inner][-1] - steps[inner][0]) / (time_[inner][-1] - time_[inner][0]))


def command(count: int, gpus: bool, words: list[str]) -> list[str]:
    """Return a command line of deploy-kit in so many processes."""
    run = [sys.executable, "-m", "deploy_kit", *words]
    if gpus and count > 1:
        return [*run, "--num-gpus", str(count)]
    if count > 1 and words[0] in ("collect", "verify"):
        return [*run, "--num-processes", str(count)]
    if count > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        return [sys.executable, *launcher, "--local-ranks-filter=0", "-m", "deploy_kit", *words]
    return run


def execute(line: list[str], log: Path, watched: Path | None = None) -> tuple[float, Watch | None]:
    """Run a command, its output to a file; return its seconds."""
    watch = Watch(watched) if watched else None
    if watch:
        watch.start()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    started = time.monotonic()
    with log.open("w") as output:
        output.write(" ".join(line) + "\n")
        output.flush()
        code = subprocess.run(line, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    seconds = time.monotonic() - started
    if watch:
        watch.ended.set()
        watch.join()
    if code:
        print(f"exit code {code}; see {log}:\n" + "".join(log.read_text().splitlines(keepends=True)[-15:]), flush=True)
        raise SystemExit(code)
    return seconds, watch


def collected(path: Path) -> dict[str, Any]:
    """Return what tells whether two collections are of one distribution."""
    with h5py.File(path) as file:
        label, feature = file["supervision"][:, 0], file["features"]
        rows = np.sort(np.random.default_rng(0).choice(len(label), min(20_000, len(label)), replace=False))
        sample = feature[rows[0] : rows[-1] + 1][rows - rows[0]]
        provenance = json.loads(file.attrs["provenance"])
        return {
            "rows": len(label),
            "positive": int(label.sum()),
            "complete": bool(file.attrs["complete"]),
            "rows_seen": int(file.attrs["rows_seen"]),
            "prevalence": float(file.attrs["prevalence"]),
            "env_steps": sum(segment["env_steps"] for segment in provenance["segments"]),
            "mean_of_positives": sample[label[rows] == 1].mean(axis=0).tolist(),
            "tracks": len(np.unique(file["track_id"][:])),
            "episodes": len(np.unique(file["episode_id"][:])),
        }


def head_of(folder: Path) -> list[float]:
    """Return the trained head of a finetuning's last epoch, weights and bias."""
    from deploy_kit.finetuning.inputs import head_vector
    from deploy_kit.policy.checkpoint import load_checkpoint

    metrics = json.loads((folder / "metrics.json").read_text())
    last = metrics["epochs"][-1]["checkpoint"]
    return head_vector(load_checkpoint(folder / last).network).tolist()


def make_bundle(arguments: argparse.Namespace) -> Path:
    """Export the checkpoint once, for verify."""
    bundle: Path = arguments.out / "bundle"
    if not (bundle / "manifest.json").exists():
        words = ["export", "--checkpoint", arguments.checkpoint, "--use-auxiliary-head", "--output", str(bundle)]
        execute(command(1, False, words), arguments.out / "export.log")
    return bundle


def verified(count: int, arguments: argparse.Namespace, device: list[str]) -> dict[str, Any]:
    """Measure verify; only its flights scale, so that the rest is kept short."""
    report = arguments.out / f"report-{count}.json"
    words = ["verify", str(make_bundle(arguments)), "--checkpoint", arguments.checkpoint, "--no-replay"]
    words += ["--search-evaluations", "64", "--no-torchscript", "--report", str(report), "--backend", arguments.backend]
    words += ["--episodes", str(arguments.episodes), "--max-episodes", str(arguments.episodes), "--seed", "1", *device]
    words += [word for mode in arguments.live_modes for word in ("--live-mode", mode)]
    row: dict[str, Any] = {}
    row["verify_s"], _ = execute(
        command(count, arguments.gpus is not None, words), arguments.out / f"verify-{count}.log"
    )
    data = json.loads(report.read_text())
    times = data["environment"]["flights"]
    checks = {check["name"]: check for check in data["checks"]}
    gates = checks["live/reference"]["statistics"]["gates_per_episode"]
    row["verify_passed"], row["verify_times"] = data["passed"], times
    row["verify_episodes"] = checks["live/reference"]["episodes"]
    row["verify_gates"], row["verify_gates_half"] = gates["mean"], (gates["ci95"][1] - gates["ci95"][0]) / 2
    row["verify_steps_per_s"] = sum(one["env_steps"] for one in times) / max(one["flown_s"] for one in times)
    return row


def measure(count: int, arguments: argparse.Namespace, rows_file: Path | None) -> dict[str, Any]:
    """Measure the three commands with one number of processes."""
    out, gpus = arguments.out, arguments.gpus is not None
    feature_file = out / f"features-{count}.h5"
    device = ["--device", "cuda:0" if gpus else "cpu"]
    words = ["collect", "--checkpoint", arguments.checkpoint, "--feature-file", str(feature_file), "--overwrite"]
    words += ["--num-positive", str(arguments.rows), "--num-negative", str(arguments.rows)]
    words += ["--num-envs", str(arguments.num_envs), "--heldout-episodes", str(arguments.heldout_episodes)]
    words += ["--backend", arguments.backend, "--seed", "1", *device]
    row: dict[str, Any] = {"processes": count}
    folder = feature_file.with_name(feature_file.name + ".partial")
    row["collect_s"], watch = execute(command(count, gpus, words), out / f"collect-{count}.log", folder)
    row |= {f"collect_{name}": value for name, value in collected(feature_file).items()}
    assert watch is not None
    row["steps_per_s"] = watch.speed or row["collect_env_steps"] / row["collect_s"]
    row["ranks"] = [watch.last[rank] for rank in sorted(watch.last)]
    source = rows_file or feature_file
    words = ["finetune", "--checkpoint", arguments.checkpoint, "--feature-file", str(source), "--overwrite"]
    words += ["--output", str(out / f"head-{count}"), "--solver", "adam", "--epochs", str(arguments.epochs), *device]
    words += ["--batch-size", str(arguments.batch_size)]
    row["finetune_s"], _ = execute(command(count, gpus, words), out / f"finetune-{count}.log")
    metrics = json.loads((out / f"head-{count}" / "metrics.json").read_text())
    row["train_rows_per_s"] = float(np.median([epoch["rows_per_second"] for epoch in metrics["epochs"]]))
    row["head"] = head_of(out / f"head-{count}")
    return row | verified(count, arguments, device)


def compare(rows: list[dict[str, Any]]) -> None:
    """Add efficiencies, and how results of each number agree with the first one's."""
    first = rows[0]
    for row in rows:
        share = row["processes"] / first["processes"]
        for name in ("steps_per_s", "train_rows_per_s", "verify_steps_per_s"):
            row[f"{name}_efficiency"] = row[name] / first[name] / share
        for name in ("collect", "verify"):
            row[f"{name}_efficiency"] = first[f"{name}_s"] / row[f"{name}_s"] / share
        # Other seeds, so other flights: equal in distribution. With the same --shares they are the same.
        error = np.hypot(row["verify_gates_half"], first["verify_gates_half"]) / 1.96
        row["verify_gates_z"] = (
            float((row["verify_gates"] - first["verify_gates"]) / error) if row is not first else 0.0
        )
        p, n = first["collect_prevalence"], first["collect_rows_seen"]
        # Steps of an episode depend on each other: so many independent ones as there are episodes, at least.
        effective = [min(r["collect_rows_seen"], 8 * r["collect_episodes"]) for r in (first, row)]
        error = np.sqrt(p * (1 - p) * sum(1 / e for e in effective))
        row["prevalence_z"] = float((row["collect_prevalence"] - p) / error) if n else float("nan")
        difference = np.abs(np.array(row["collect_mean_of_positives"]) - first["collect_mean_of_positives"])
        row["feature_mean_difference"] = float(difference.max())
        scale = max(np.abs(first["head"]).max(), 1e-9)
        row["head_difference"] = float(np.abs(np.array(row["head"]) - first["head"]).max() / scale)


_COLUMNS: dict[str, dict[str, Callable[[dict[str, Any]], str]]] = {
    "collect": {
        "s": lambda row: f"{row['collect_s']:.1f}",
        "env steps/s": lambda row: f"{row['steps_per_s']:,.0f}",
        "efficiency": lambda row: f"{row['steps_per_s_efficiency']:.2f}",
        "of the whole": lambda row: f"{row['collect_efficiency']:.2f}",
        "waited, s": lambda row: _numbers(row["ranks"], "waited_s"),
        "CPU, s": lambda row: _numbers(row["ranks"], "cpu_s"),
        "rows": lambda row: f"{row['collect_rows']:,}",
        "prevalence (z)": lambda row: f"{row['collect_prevalence']:.4f} ({row['prevalence_z']:+.1f})",
    },
    "finetune": {
        "s": lambda row: f"{row['finetune_s']:.1f}",
        "rows/s trained": lambda row: f"{row['train_rows_per_s']:,.0f}",
        "efficiency": lambda row: f"{row['train_rows_per_s_efficiency']:.2f}",
        "head differs": lambda row: f"{row['head_difference']:.1e}",
    },
    "verify": {
        "s": lambda row: f"{row['verify_s']:.1f}",
        "env steps/s in flight": lambda row: f"{row['verify_steps_per_s']:,.0f}",
        "efficiency": lambda row: f"{row['verify_steps_per_s_efficiency']:.2f}",
        "of the whole": lambda row: f"{row['verify_efficiency']:.2f}",
        "built, s": lambda row: _numbers(row["verify_times"], "built_s"),
        "flown, s": lambda row: _numbers(row["verify_times"], "flown_s"),
        "waited, s": lambda row: _numbers(row["verify_times"], "waited_s"),
        "CPU, s": lambda row: _numbers(row["verify_times"], "cpu_s"),
        "episodes": lambda row: str(row["verify_episodes"]),
        "gates (z)": lambda row: f"{row['verify_gates']:.2f} ({row['verify_gates_z']:+.1f})",
        "verdict": lambda row: "VERIFIED" if row["verify_passed"] else "FAILED",
    },
}
"""Columns of each command's table."""


def _numbers(processes: list[dict[str, Any]], name: str) -> str:
    return " ".join(f"{process[name]:.1f}" for process in processes) or "–"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the measurements as tables in Markdown."""
    lines = []
    for name, columns in _COLUMNS.items():
        lines += [f"**{name}**", "", "| N | " + " | ".join(columns) + " |", "|" + "--:|" * (len(columns) + 1)]
        for row in rows:
            cells = [str(row["processes"]), *(cell(row) for cell in columns.values())]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path, gpus: bool) -> None:
    """Plot speeds and efficiencies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    number = [row["processes"] for row in rows]
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    for axis, name, title in (
        (axes[0], "steps_per_s", "collect: env steps/s"),
        (axes[1], "collect_s", "collect: seconds of the whole command"),
        (axes[2], "train_rows_per_s", "finetune: rows/s trained"),
        (axes[3], "verify_steps_per_s", "verify: env steps/s in flight"),
    ):
        values = np.array([row[name] for row in rows], float)
        ideal = values[0] * np.array(number) / number[0]
        ideal = values[0] * number[0] / np.array(number) if name == "collect_s" else ideal
        axis.plot(number, values, "o-", label="measured")
        axis.plot(number, ideal, "--", color="0.6", label="ideal")
        axis.set(xlabel="GPUs" if gpus else "processes", title=title, ylim=(0, None), xticks=number)
        axis.legend(frameon=False, loc="upper left" if name != "collect_s" else "upper right")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", help="numbers of GPUs, the smallest first")
    parser.add_argument("--processes", type=int, nargs="+", help="numbers of processes on the CPU, the smallest first")
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--backend", default="mujoco", choices=["mujoco", "isaaclab"])
    parser.add_argument("--num-envs", type=int, default=16, help="environments of each process")
    parser.add_argument("--rows", type=int, default=1_000_000, help="training rows of each class")
    parser.add_argument("--heldout-episodes", type=int, default=128)
    parser.add_argument("--episodes", type=int, default=4096, help="live episodes of verify, in each mode")
    parser.add_argument(
        "--live-modes",
        nargs="+",
        default=["shadow", "driving"],
        choices=["shadow", "driving", "contract"],
        help="modes of verify; contract runs the onboard runner once for each environment, on the CPU",
    )
    parser.add_argument("--append", action="store_true", help="keep what the folder's scaling.json holds")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256, help="rows a step, of all processes together")
    parser.add_argument("--out", type=Path, default=Path("scaling"))
    arguments = parser.parse_args()
    if (arguments.gpus is None) == (arguments.processes is None):
        parser.error("give --gpus or --processes")
    arguments.out.mkdir(parents=True, exist_ok=True)
    stored = arguments.out / "scaling.json"
    rows: list[dict[str, Any]] = json.loads(stored.read_text()) if arguments.append and stored.exists() else []
    for count in arguments.gpus or arguments.processes:
        if any(row["processes"] == count for row in rows):
            continue
        first = arguments.out / f"features-{rows[0]['processes']}.h5" if rows else None
        rows.append(measure(count, arguments, first))
        compare(rows)
        stored.write_text(json.dumps(rows, indent=1))
        (arguments.out / "scaling.md").write_text(table(rows))
        draw(rows, arguments.out / "scaling.png", arguments.gpus is not None)
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
