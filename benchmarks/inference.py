"""Time one inference at batch 1 on one thread: eager PyTorch, TorchScript, ONNX, the onboard runner, side by side.

The candidates take turns within one run, so that whatever else the machine does hits them alike.

    python benchmarks/inference.py [--checkpoint FILE]
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from deploy_kit.bundle.contract_fields import InputLayout
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.onboard import OnboardPolicy
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from deploy_kit.policy.network import NetworkConfig, VisionActorCritic
from deploy_kit.task.racing import TASK_ID

Step = Callable[[], object]


def random_checkpoint(folder: Path) -> Path:
    """Write an untrained policy of the reference size."""
    torch.manual_seed(0)
    save_safetensors(folder / "random.safetensors", VisionActorCritic(NetworkConfig()).eval())
    return folder / "random.safetensors"


def onnx_step(path: Path, inputs: dict[str, np.ndarray]) -> Step:
    """Return one run of an ONNX file on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)


def make_steps(checkpoint: Path, folder: Path) -> dict[str, Step]:
    """Export a checkpoint and return one step of each candidate, the ONNX graph of the default export first."""
    shared = {"checkpoint": checkpoint, "use_auxiliary_head": True, "num_golden": 4}
    if not (checkpoint.parent / "params" / "env.yaml").is_file():
        shared["task"] = TASK_ID
    split = export_bundle(ExportOptions(output=folder / "split", **shared))
    flat = export_bundle(ExportOptions(output=folder / "flat", input_layout=InputLayout.FLAT, **shared))
    network = load_checkpoint(checkpoint).network
    scripted = torch.jit.load(split / "policy.pt")
    onboard = OnboardPolicy(split)
    rng = np.random.default_rng(0)
    state = np.concatenate([rng.normal(size=3), [0.0, 0.0, 1.0], rng.normal(size=6)])
    metres = rng.uniform(0.2, 12.0, (72, 96)).astype(np.float32)
    whole = np.concatenate([state, [14.7, 0.0, 0.0, 0.0]]).astype(np.float32)[None]
    image = (np.minimum(metres, 10.0) / 10.0)[None, None]
    observation = np.concatenate([whole, image.reshape(1, -1)], axis=1)
    tensors = torch.from_numpy(whole), torch.from_numpy(image)
    flat_tensor = torch.from_numpy(observation)
    return {
        "ONNX": onnx_step(split / "policy.onnx", {"state": whole, "depth": image}),
        "ONNX, flat input": onnx_step(flat / "policy.onnx", {"obs": observation}),
        "TorchScript, frozen": lambda: scripted(*tensors),
        "PyTorch, eager": lambda: network(flat_tensor),
        "onboard runner, guards and transforms included": lambda: onboard.step(state, metres),
    }


def measure(steps: dict[str, Step], rounds: int, repeats: int) -> dict[str, np.ndarray]:
    """Return the durations of each candidate in µs, taken in turns of `repeats`."""
    durations: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            for _ in range(repeats):
                start = time.perf_counter_ns()
                step()
                durations[name].append((time.perf_counter_ns() - start) / 1e3)
    # The first round warms up.
    return {name: np.array(values[repeats:]) for name, values in durations.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="default: an untrained policy of the reference size")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        steps = make_steps(options.checkpoint or random_checkpoint(folder), folder)
        gc.disable()
        durations = measure(steps, options.rounds, options.repeats)
    base = np.median(durations["ONNX"])
    print(f"batch 1, one thread, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
    print(f"{'':48}{'p50 µs':>9}{'p90 µs':>9}{'to ONNX':>9}")
    for name, values in durations.items():
        p50, p90 = np.percentile(values, [50, 90])
        print(f"{name:48}{p50:9.1f}{p90:9.1f}{p50 / base:8.2f}x")


if __name__ == "__main__":
    main()
