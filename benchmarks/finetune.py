"""Time finetuning: the closed form beside a plain re-implementation of MasterRacing's loop, and large files.

    python benchmarks/finetune.py speed [--rows 1000000]       rows a second at batch 256, side by side
    python benchmarks/finetune.py stream [--rows 10000000]     one epoch from a file larger than --memory; peak memory
    python benchmarks/finetune.py whole [--rows 2000000] [--device cuda]   the whole command's work, loading included

The peer reads every row from the HDF5 file by itself, in four worker processes, moves it by PGD with autograd, and
steps torch's Adam. It is timed on --peer-rows rows, half before and half after the closed form, on two files: one with
HDF5's own choice of chunks for two million rows, as MasterRacing stored them, and ours with chunks of whole rows.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset, RandomSampler

from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.schema import CHUNK_ROWS, FeatureFileInfo, training_columns
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.finetuning.run import FinetuneOptions, finetune
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from deploy_kit.policy.fingerprint import feature_sha256
from deploy_kit.policy.network import NetworkConfig, VisionActorCritic
from deploy_kit.progress import Progress

WIDTH = 192
BATCH = 256


class MasterRacingRows(Dataset):
    """One HDF5 read a row, the file opened once a worker."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows, self.file = path, rows, None

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.file is None:
            self.file = h5py.File(self.path, "r")
            self.features, self.labels = self.file["features"], self.file["supervision"]
        return self.features[index], self.labels[index].astype(np.float32)


def masterracing_rows_per_second(path: Path, rows: int, total: int) -> float:
    """Train like MasterRacing on random rows and return rows a second, workers already started."""
    head = nn.Linear(WIDTH, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # batches are small and the workers need the cores
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-4)
    data = MasterRacingRows(path, total)
    loader = DataLoader(data, BATCH, sampler=RandomSampler(data, num_samples=rows + 8 * BATCH), num_workers=4)
    started, done = 0.0, 0
    for number, (features, label) in enumerate(loader):
        if number == 8:
            started = time.perf_counter()
        moved = features.clone()
        for _ in range(3):
            moved = moved.detach().requires_grad_(True)
            loss = binary_cross_entropy_with_logits(head(moved), label)
            (gradient,) = torch.autograd.grad(loss, moved)
            shift = (moved.detach() + 0.01 * gradient.sign() - features).clamp(-0.1, 0.1)
            moved = (features + shift).clamp(0, 1)
        loss = binary_cross_entropy_with_logits(head(moved), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done += len(label) * (number >= 8)
    seconds = time.perf_counter() - started
    torch.set_num_threads(before)
    return done / seconds


def make_policy(folder: Path) -> Path:
    """Write an untrained policy of the reference size."""
    torch.manual_seed(0)
    save_safetensors(folder / "policy.safetensors", VisionActorCritic(NetworkConfig()).eval())
    return folder / "policy.safetensors"


def make_rows(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    """Return leaky ReLU outputs of which some tell the classes apart."""
    features = rng.standard_normal((len(label), WIDTH), np.float32)
    features[:, :8] += 0.5 * label[:, None]
    return np.maximum(features, 0.01 * features)


def make_file(path: Path, checkpoint: Path, rows: int) -> Path:
    """Write a feature file with so many balanced training rows and 16 held-out episodes."""
    network = load_checkpoint(checkpoint).network
    info = FeatureFileInfo(WIDTH, feature_sha256(network), "a" * 64, "synthetic", 0.35, 1, 0, 2, "synthetic")
    rng = np.random.default_rng(0)
    with FeatureFileWriter(path, info, rows, rows, seed=0) as writer:
        for episode in range(16):
            label = np.arange(267) % 33 == 20
            writer.add_heldout_episode(make_rows(rng, label), label, 10**9 + episode, 0, 10**9 + episode)
        label = np.arange(2048) % 2
        ids = np.zeros(2048, int)
        writer.add_training(make_rows(rng, label == 1), label, ids, ids, ids, ids)
    # The writer samples row by row, which would take minutes; here rows are copied into the file in blocks.
    with h5py.File(path, "r+") as file:
        file.attrs.pop("layout_sha256", None)
        block = 64 * CHUNK_ROWS
        for column in training_columns(WIDTH):
            file[column.name].resize(rows, axis=0)
        for start in range(0, rows, block):
            count = min(block, rows - start)
            label = rng.random(count) < 0.5
            file["features"][start : start + count] = make_rows(rng, label)
            file["supervision"][start : start + count] = label[:, None]
            for name in ("episode_id", "env_id", "track_id", "step"):
                file[name][start : start + count] = 0
        file.attrs["complete"] = np.bool_(True)
    return path


def make_masterracing_file(path: Path, rows: int) -> Path:
    """Write rows as MasterRacing does: allocated for two million, chunks of h5py's choice."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", (2_000_000, WIDTH), np.float32, chunks=True)
        labels = file.create_dataset("supervision", (2_000_000, 1), np.int8, chunks=True)
        label = rng.random(rows) < 0.5
        features[:rows], labels[:rows] = make_rows(rng, label), label[:, None]
    return path


@contextmanager
def inputs(rows: int, scratch: Path | None) -> Iterator[tuple[Path, Path, Path]]:
    """Yield a checkpoint, a feature file and a folder, removed afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        started = time.perf_counter()
        checkpoint = make_policy(folder)
        path = make_file(folder / "features.h5", checkpoint, rows)
        print(f"{rows:,} rows, {path.stat().st_size / 1e9:.2f} GB, written in {time.perf_counter() - started:.0f} s")
        yield checkpoint, path, folder


def speed(arguments: argparse.Namespace) -> None:
    """Print rows a second of both loops, in one run on the same file."""
    with inputs(arguments.rows, arguments.scratch) as (checkpoint, path, folder):
        masterracing_path, stored = folder / "masterracing.h5", 200_000
        make_masterracing_file(masterracing_path, stored)
        peers: dict[str, list[float]] = {"MasterRacing's loop, its chunks": [], "MasterRacing's loop, our chunks": []}

        def time_peers() -> None:
            for times, (peer_path, total) in zip(
                peers.values(), ((masterracing_path, stored), (path, arguments.rows)), strict=True
            ):
                times.append(masterracing_rows_per_second(peer_path, arguments.peer_rows // 2, total))

        time_peers()
        result = finetune(FinetuneOptions(path, checkpoint, folder / "out", epochs=5, batch_size=BATCH))
        time_peers()
    ours = sorted(record.rows_per_second for record in result.epochs)
    middle = ours[len(ours) // 2]
    print(f"{'closed form':34}{middle:12,.0f} rows/s   (epochs: {', '.join(f'{value:,.0f}' for value in ours)})")
    for name, times in peers.items():
        mean = sum(times) / len(times)
        runs = ", ".join(f"{value:,.0f}" for value in times)
        print(f"{name:34}{mean:12,.0f} rows/s   (runs: {runs}), closed form {middle / mean:,.0f} times as fast")


def stream(arguments: argparse.Namespace) -> None:
    """Print speed and peak memory of a process that streams a file."""
    with inputs(arguments.rows, arguments.scratch) as (checkpoint, path, folder):
        command = [sys.executable, __file__, "child", str(path), str(checkpoint), str(folder / "out")]
        subprocess.run([*command, "--memory", str(arguments.memory)], check=True)


def child(arguments: argparse.Namespace) -> None:
    """Finetune for one epoch and print what it took."""
    options = FinetuneOptions(
        arguments.path, arguments.checkpoint, arguments.out, epochs=1, batch_size=BATCH, memory=arguments.memory
    )
    started = time.perf_counter()
    result = finetune(options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"one epoch: {result.epochs[0].rows_per_second:,.0f} rows/s, whole run {time.perf_counter() - started:.1f} s, "
        f"peak memory {peak / 2**20:,.0f} MiB with a bound of {arguments.memory / 2**20:,.0f} MiB"
    )


def whole(arguments: argparse.Namespace) -> None:
    """Print how long a finetuning of five epochs takes, reading and judging included."""
    with inputs(arguments.rows, arguments.scratch) as (checkpoint, path, folder):
        started = time.perf_counter()
        with open_feature_file(path) as file:
            features = file.train.features
        print(f"reading the rows alone: {time.perf_counter() - started:.2f} s for {features.nbytes / 1e9:.2f} GB")
        del features
        for run in range(arguments.runs):
            options = FinetuneOptions(
                path, checkpoint, folder / f"out{run}", epochs=5, batch_size=BATCH, device=arguments.device
            )
            phases: dict[str, float] = {}
            started = time.perf_counter()

            def note(progress: Progress, phases: dict[str, float] = phases) -> None:
                phases.setdefault(progress.phase, time.perf_counter())

            result = finetune(options, note)
            seconds = time.perf_counter() - started
            epochs = sum(arguments.rows / record.rows_per_second for record in result.epochs)
            print(
                f"{arguments.device}: {phases['judging'] - started:.2f} s to the last checkpoint, reading "
                f"included, of which training {epochs:.2f} s; {seconds:.2f} s with intervals, plots and report"
            )


def main() -> None:
    """Run one of the three measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function, rows in ((speed, 1_000_000), (stream, 10_000_000), (whole, 2_000_000)):
        command = commands.add_parser(function.__name__)
        command.add_argument("--rows", type=int, default=rows)
        command.add_argument("--scratch", type=Path, help="folder for the file")
        command.add_argument("--peer-rows", type=int, default=30_000)
        command.add_argument("--memory", type=int, default=2**30, help="bytes")
        command.add_argument("--device", default="cpu")
        command.add_argument("--runs", type=int, default=2)
        command.set_defaults(run=function)
    command = commands.add_parser("child")
    for name in ("path", "checkpoint", "out"):
        command.add_argument(name, type=Path)
    command.add_argument("--memory", type=int)
    command.set_defaults(run=child)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, numpy {np.__version__}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    arguments.run(arguments)


if __name__ == "__main__":
    main()
