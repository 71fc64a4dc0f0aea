"""Damaged files of every kind that deploy-kit reads, and what reading one came to."""

import contextlib
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.reader import read_golden
from deploy_kit.data.cadence import CheckpointEvery
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.shard import HELDOUT, OBSERVATIONS, TRAINING, Shard
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.errors import BundleError, CheckpointError, DeployKitError
from deploy_kit.files import read_json_object
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.verify.structure.graph import StructureError
from deploy_kit.verify.structure.onnx_file import file_checks, load_graph
from deploy_kit.verify.structure.torchscript_file import read_torchscript
from deploy_kit.yaml_file import read_yaml
from helpers.bundles import Run
from helpers.checkpoints import joint_entries
from helpers.feature_files import add_episode, feed, keep, make_info, write_numbered_file
from helpers.networks import tiny_network

NAMES = (
    *("checkpoint", "safetensors", "feature file", "file over shards", "shard", "contract", "JSON", "golden samples"),
    *("YAML", "ONNX", "TorchScript"),
)
"""Names of the kinds."""

SECONDS = 30
"""Time after which a reader counts as hanging, s."""

MEMORY = 2 * 2**30
"""Bytes that a reader may take beside what the process has; the files are below one megabyte."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: of the kind.
        content: of a sound file.
        suffix: of its name.
        read: reads a file and returns arrays and values that can be compared.
        checked: whether a hash or checksum covers the content, so that what is read must be right.
        beside: folders that must lie beside the file.
    """

    name: str
    content: bytes
    suffix: str
    read: Callable[[Path], Any]
    checked: bool
    beside: tuple[Path, ...] = ()


def read_network(path: Path) -> dict[str, np.ndarray]:
    """Read a checkpoint's network."""
    return {name: tensor.numpy() for name, tensor in load_checkpoint(path).network.state_dict().items()}


def read_contract(path: Path) -> str:
    """Read a contract and write it again."""
    return Contract.from_json(path.read_text(encoding="utf-8", errors="replace"), "contract").to_json()


def read_rows(path: Path) -> dict[str, Any]:
    """Read everything in a feature file."""
    with open_feature_file(path) as file:
        found: dict[str, Any] = {"features": file.train.features, "label": file.train.supervision}
        found |= {name: getattr(file.train, name) for name in ("episode_id", "env_id", "track_id", "step")}
        if file.num_heldout:
            found |= {"heldout": file.heldout().features, "heldout_label": file.heldout().supervision}
        if file.observations is not None:
            found["observation"] = file.observations.observation
        return {**found, "attributes": str(file.attrs)}


def read_shard(path: Path) -> dict[str, Any]:
    """Read everything in a shard."""
    with Shard(path, 8) as shard:
        groups = {name: shard.read(name) for name in (TRAINING, HELDOUT, OBSERVATIONS)}
        return {f"{name}/{key}": value for name, rows in groups.items() for key, value in (rows or {}).items()}


def read_graph(path: Path) -> str:
    """Read an ONNX file and say what is wrong with it."""
    model = load_graph(path.read_bytes(), path.name)
    return str(file_checks(model))


def read_module(path: Path) -> str:
    """Read a TorchScript file as data, and return its code."""
    try:
        return str(read_torchscript(path.read_bytes()))
    except StructureError as error:
        # Which verify turns into a failed check.
        raise BundleError(str(error)) from error


AGENT_YAML = b"""
policy: {class_name: VisionActorCritic, activation: elu, actor_hidden_dims: [256, 128], init_noise_std: 1.0}
algorithm: &algorithm {gamma: 0.99, learning_rate: 1.0e-3}
again: *algorithm
slice: !!python/object/apply:builtins.slice [null, 3, null]
"""


def kinds(run: Run, folder: Path) -> Iterator[Kind]:
    """Yield all kinds.

    Args:
        run: a small policy's checkpoint, feature file and bundle.
        folder: to write in.
    """
    contract = (run.bundle / "contract.json").read_text()
    parsed = Contract.from_json(contract, "contract")
    torch.save(joint_entries(tiny_network()), folder / "model.pt")
    yield Kind("checkpoint", (folder / "model.pt").read_bytes(), ".pt", read_network, True)
    yield Kind("safetensors", run.checkpoint.read_bytes(), ".safetensors", read_network, True)
    yield Kind("feature file", write_numbered_file(folder / "x.h5").read_bytes(), ".h5", read_rows, True)
    over = folder / "over.h5"
    with FeatureFileWriter(over, make_info(), 40, 40, 1, every=CheckpointEvery(rows=150), keep_shards=True) as writer:
        add_episode(writer, 1000, 100)
        keep(writer)
        feed(writer, 400)
    beside = tuple(folder.glob("over.h5.shards-*"))
    yield Kind("file over shards", over.read_bytes(), ".h5", read_rows, True, beside)
    with FeatureFileWriter(folder / "y.h5", make_info(), 40, 40, seed=1) as writer:
        add_episode(writer, 1000, 100)
        keep(writer)
        feed(writer, 100)
        writer.shards.checkpoint()
        shard = next(folder.glob("y.h5.partial/shard-*.h5")).read_bytes()
    yield Kind("shard", shard, ".h5", read_shard, True)
    yield Kind("contract", contract.encode(), ".json", read_contract, False)
    yield Kind("JSON", (run.bundle / "manifest.json").read_bytes(), ".json", read_json_object, False)
    golden = (run.bundle / "golden.npz").read_bytes()
    yield Kind("golden samples", golden, ".npz", lambda p: vars(read_golden(p, parsed)), False)
    yield Kind("YAML", AGENT_YAML, ".yaml", lambda p: read_yaml(p, CheckpointError), False)
    yield Kind("ONNX", (run.bundle / "policy.onnx").read_bytes(), ".onnx", read_graph, False)
    yield Kind("TorchScript", (run.bundle / "policy.pt").read_bytes(), ".bin", read_module, False)


def place(kind: Kind, folder: Path) -> Path:
    """Write a sound file, with what must lie beside it; return its path."""
    folder.mkdir()
    if kind.suffix == ".pt":
        # A run's parameters tell the activation and the image shape.
        (folder / "params").mkdir()
        (folder / "params" / "agent.yaml").write_bytes(b"policy: {activation: elu, image_shape: [9, 12]}")
    for other in kind.beside:
        shutil.copytree(other, folder / other.name)
    path = folder / f"file{kind.suffix}"
    path.write_bytes(kind.content)
    return path


def corrupt(content: bytes, rng: np.random.Generator) -> bytes:
    """Return content with one to four faults of random kinds at random places."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if not data:
            break
        size = len(data)
        # Small numbers more often: heads and tables are at the beginning of files.
        at = int(rng.integers(0, size)) if rng.random() < 0.5 else int(size ** rng.random()) - 1
        length = int(min(size - at, 2 ** rng.integers(0, 12)))
        match rng.integers(0, 9):
            case 0 | 1:
                data[at] ^= 1 << int(rng.integers(0, 8))
            case 2:
                data[at : at + length] = rng.bytes(length)
            case 3:
                data[at : at + length] = bytes([int(rng.choice([0, 255]))]) * length
            case 4:
                del data[at:]
            case 5:
                del data[at : at + length]
            case 6:
                data[at:at] = data[at : at + length]
            case 7:
                other = int(rng.integers(0, size))
                data[at : at + length], data[other : other + length] = (
                    data[other : other + length],
                    data[at : at + length],
                )
            case 8:
                width = int(rng.choice([2, 4, 8]))
                value = int(rng.choice([2**31 - 1, 2**15, 0, 10**9])) % 256**width
                data[at : at + width] = value.to_bytes(width, "little")
    return bytes(data)


def same(one: Any, other: Any) -> bool:
    """Return whether two things that were read are equal, NaN equal to NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return bool(one == other)


def finite(value: Any) -> bool:
    """Return whether all arrays of floats that were read are finite."""
    if isinstance(value, dict):
        return all(finite(item) for name, item in value.items() if not str(name).endswith("keys"))
    return not (isinstance(value, np.ndarray) and value.dtype.kind == "f") or bool(np.isfinite(value).all())


def judge(kind: Kind, path: Path, expected: Any) -> str:
    """Read a damaged file; return "refused", "same", "other", or what was wrong, beginning with "WRONG"."""
    try:
        with limits():
            found = kind.read(path)
    except DeployKitError as error:
        message = str(error)
        return "refused" if message.isprintable() else f"WRONG: message with control characters: {message!r:.200}"
    except MemoryError:
        return "WRONG: memory"
    except BaseException as error:  # noqa: BLE001  # whatever else a reader raises is the finding
        return f"WRONG: {type(error).__name__}: {error!s:.200} {traceback.format_exc(limit=-1)!r:.300}"
    if same(found, expected):
        return "same"
    if kind.checked:
        return "WRONG: other data than were written"
    return "other" if finite(found) else "WRONG: numbers that are not finite"


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """End what takes too long, and refuse memory beyond `MEMORY`."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    # A loop in a library's own code hears no alarm: the system ends the process then.
    spent, processor = int(time.process_time()), resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + SECONDS, processor[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_CPU, processor)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


def _hangs(*_: object) -> None:
    raise TimeoutError("the reader hangs")


def one_thread() -> None:
    """Keep torch to one thread."""
    torch.set_num_threads(1)
