"""A small policy's checkpoint, feature file and bundle, and changes to a bundle's files."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from deploy_kit.bundle.contract import CONTRACT_METADATA_KEY
from deploy_kit.bundle.reader import manifest_text
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.policy.checkpoint import save_safetensors
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.verifier import VerifyOptions
from helpers.checkpoints import CALIBRATION
from helpers.exports import share_operators
from helpers.feature_files import write_policy_file
from helpers.networks import make_network, small_network


@dataclass(frozen=True)
class Run:
    """A checkpoint, a feature file of that policy, and its bundle."""

    network: VisionActorCritic
    checkpoint: Path
    dataset: Path
    bundle: Path

    def verify(self, **changes: object) -> VerifyOptions:
        """Return options that verify this bundle without flying."""
        defaults = VerifyOptions(
            bundle=self.bundle,
            checkpoint=self.checkpoint,
            feature_file=self.dataset,
            live=False,
            seed=0,
            random_rows=128,
            search_evaluations=128,
        )
        return replace(defaults, **changes)


def make_run(folder: Path, seed: int = 0, **export: object) -> Run:
    """Write a checkpoint, a feature file and a bundle of a small random policy."""
    share_operators()
    network = small_network(seed)
    checkpoint, dataset = folder / "model_7.safetensors", folder / "features.h5"
    save_safetensors(checkpoint, network, 7, CALIBRATION)
    write_policy_file(dataset, network, checkpoint)
    options = ExportOptions(
        checkpoint=checkpoint,
        output=folder / "bundle",
        use_auxiliary_head=True,
        feature_file=dataset,
        task=TASK_ID,
        num_golden=16,
    )
    return Run(network, checkpoint, dataset, export_bundle(replace(options, **export)))


def make_racer(folder: Path) -> Run:
    """Write a checkpoint and a bundle of a random policy of the racing task's size."""
    share_operators()
    checkpoint = folder / "policy.safetensors"
    save_safetensors(checkpoint, make_network(), 1, CALIBRATION)
    options = ExportOptions(checkpoint, folder / "bundle", use_auxiliary_head=True, task=TASK_ID, num_golden=2)
    return Run(make_network(), checkpoint, folder / "none.h5", export_bundle(options))


def copy_bundle(bundle: Path, target: Path) -> Path:
    """Copy a bundle's own files, without reports, to be changed."""
    return shutil.copytree(bundle, target, ignore=shutil.ignore_patterns("report.*"))


def rewrite_manifest(folder: Path) -> None:
    """List the files as they are now, as whoever replaces an artifact on purpose would."""
    (folder / "manifest.json").write_text(manifest_text(folder), encoding="utf-8")


def edit_contract(folder: Path, edit: Callable[[dict], object], graph: bool = False) -> None:
    """Change contract.json and list it anew; graph: change the graph's copy too."""
    data = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
    edit(data)
    (folder / "contract.json").write_text(json.dumps(data), encoding="utf-8")
    if graph:
        model = onnx.load(folder / "policy.onnx")
        onnx.helper.set_model_props(model, {CONTRACT_METADATA_KEY: json.dumps(data)})
        onnx.save_model(model, folder / "policy.onnx")
    rewrite_manifest(folder)


def edit_onnx(folder: Path, edit: Callable[[onnx.ModelProto], object]) -> None:
    """Change the graph and list it anew."""
    model = onnx.load(folder / "policy.onnx")
    edit(model)
    onnx.save_model(model, folder / "policy.onnx")
    rewrite_manifest(folder)


def edit_golden(folder: Path, **arrays: np.ndarray | None) -> None:
    """Replace arrays of golden.npz (None: leave out) and list it anew."""
    with np.load(folder / "golden.npz") as archive:
        changed = {**archive, **arrays}
    np.savez(folder / "golden.npz", **{name: array for name, array in changed.items() if array is not None})
    rewrite_manifest(folder)


def shift_initializer(model: onnx.ModelProto, name: str, amount: float) -> None:
    """Shift the first number of the initialiser whose name ends so."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith(name))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] += np.float32(amount)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def put_a_weight_off(bundle: Path) -> None:
    """Put one weight of the ONNX graph off by 1e-3, with a manifest that fits."""
    edit_onnx(bundle, lambda model: shift_initializer(model, "stem.3.weight", 1e-3))


def write_torn_npz(path: Path, name: str) -> None:
    """Write an npz file with one array, whose header ends in the middle of a tuple."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, "
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", array)
