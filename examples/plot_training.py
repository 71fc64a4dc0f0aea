"""Draw a training run's curves from its TensorBoard logs.

    python examples/plot_training.py runs/demo curves.png --num-envs 4096

Reads every event file in the run's folder, so a run that was stopped and continued gives one curve.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CURVES = {
    "Metrics/race/gates_passed": "gates passed per episode",
    "Curriculum/gate_noise": "noise on gate positions (half width, m)",
    "Train/mean_reward": "return per episode",
    "Policy/mean_std": "standard deviation of the action",
}


def read(folder: Path, tag: str) -> dict[int, float]:
    """Return a scalar by iteration; where a run was continued, the later value counts."""
    values: dict[int, float] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        if tag in events.Tags()["scalars"]:
            values |= {event.step: event.value for event in events.Scalars(tag)}
    return dict(sorted(values.items()))


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--num-envs", type=int, default=4096, help="environments of the run")
    parser.add_argument("--steps-per-env", type=int, default=24, help="steps of each environment an iteration")
    arguments = parser.parse_args()
    batch = arguments.num_envs * arguments.steps_per_env
    figure, axes = plt.subplots(2, 2, figsize=(10, 5.5), sharex=True, layout="constrained")
    for axis, (tag, title) in zip(axes.flat, CURVES.items(), strict=True):
        curve = read(arguments.run, tag)
        if not curve:
            raise SystemExit(f"{arguments.run}: no event file there holds {tag!r}")
        axis.plot([iteration * batch / 1e6 for iteration in curve], list(curve.values()), linewidth=1)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("million environment steps")
    figure.savefig(arguments.picture, dpi=120)


if __name__ == "__main__":
    main()
