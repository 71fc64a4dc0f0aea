"""Whatever is wrong with the input: one clear line, exit code 2, nothing lost."""

import os
import pickle

import h5py
import numpy as np
import pytest
import torch

from deploy_kit.policy.checkpoint import save_safetensors
from helpers.feature_files import write_policy_file
from helpers.networks import small_network

RACING = ("--task", "DiffLab-Quadcopter-CTBR-Racing-v0")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def dataset(cli, checkpoint, tmp_path):
    """A small feature file of the checkpoint's policy."""
    path = tmp_path / "good.h5"
    result = cli(
        *("collect", "--checkpoint", checkpoint, "--task", "helpers.scripted_racing:make", "--dataset", path),
        *("--num_envs", 3, "--num-positive", 20, "--num-negative", 20, "--heldout-episodes", 8),
    )
    assert result.code == 0, result
    return path


def finetune(checkpoint, dataset, tmp_path):
    return ("finetune", "--policy_path", checkpoint, "--h5_path", dataset, "--save_path", tmp_path / "finetuned")


def altered(dataset, change):
    with h5py.File(dataset, "r+") as file:
        file.attrs.pop("layout_sha256", None)
        change(file)
    return dataset


# -- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["collect", "finetune", "export", "verify", "fly", "inspect"])
def test_a_missing_checkpoint(refused, tmp_path, dataset, command):
    missing = tmp_path / "run" / "model_9.pt"
    arguments = {
        "collect": ("collect", "--checkpoint", missing, "--dataset", tmp_path / "new.h5"),
        "finetune": finetune(missing, dataset, tmp_path),
        "export": ("export", "--checkpoint", missing, "--output", tmp_path / "bundle"),
        "verify": ("verify", tmp_path, "--checkpoint", missing, "--no-replay"),
        "fly": ("fly", missing),
        "inspect": ("inspect", missing),
    }[command]
    refused(*arguments, words=("model_9.pt", "does not exist" if command != "finetune" else "model_9.pt"))
    assert not (tmp_path / "new.h5").exists()
    assert not (tmp_path / "bundle").exists()


def test_a_truncated_checkpoint(refused, checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    refused("inspect", checkpoint, words=(str(checkpoint),))


def test_a_foreign_file(refused, checkpoint):
    checkpoint.write_text("not a checkpoint at all\n" * 100)
    refused("inspect", checkpoint, words=(str(checkpoint), "no checkpoint"))


def test_a_foreign_network(refused, checkpoint):
    torch.save({"model_state_dict": {"layer.weight": torch.zeros(3, 3)}, "iter": 1, "infos": None}, checkpoint)
    refused("inspect", checkpoint, words=(str(checkpoint),))


def test_a_pickle_that_would_run_code(refused, checkpoint, tmp_path):
    marker = tmp_path / "executed"
    entries = torch.load(checkpoint, weights_only=True)
    torch.save({**entries, "infos": Payload(marker)}, checkpoint)
    refused("inspect", checkpoint, words=(str(checkpoint), "nothing was executed"))
    checkpoint.write_bytes(pickle.dumps(Payload(marker)))
    refused("inspect", checkpoint, words=(str(checkpoint),))
    assert not marker.exists()


def test_wrong_tensor_shapes(refused, checkpoint):
    entries = torch.load(checkpoint, weights_only=True)
    entries["model_state_dict"]["actor.0.weight"] = torch.zeros(128, 191)
    torch.save(entries, checkpoint)
    refused("inspect", checkpoint, words=("actor.0.weight", "191"))


def test_a_checkpoint_without_the_gate_head(refused, checkpoint, dataset, tmp_path):
    entries = torch.load(checkpoint, weights_only=True)
    for name in ("aux_decoder.weight", "aux_decoder.bias"):
        del entries["model_state_dict"][name]
    torch.save(entries, checkpoint)
    output = tmp_path / "bundle"
    refused(
        "export",
        "--checkpoint",
        checkpoint,
        "--use-auxiliary-head",
        "--output",
        output,
        *RACING,
        words=("aux_decoder",),
    )
    assert not output.exists()
    refused(*finetune(checkpoint, dataset, tmp_path), words=("aux_decoder",))


def test_no_checkpoint_named(refused):
    refused("collect", words=("--checkpoint",))


# -- feature files -------------------------------------------------------------------------------------------------


def test_a_file_without_rows(refused, checkpoint, dataset, tmp_path):
    def empty(file):
        for name in ("features", "supervision", "episode_id", "env_id", "track_id", "step"):
            file[name].resize(0, axis=0)

    refused(*finetune(checkpoint, altered(dataset, empty), tmp_path), words=(str(dataset),))


def test_a_file_with_nan(refused, checkpoint, dataset, tmp_path):
    def spoil(file):
        file["features"][7, 5] = np.nan

    refused(*finetune(checkpoint, altered(dataset, spoil), tmp_path), words=(str(dataset), "7"))


def test_a_file_with_one_class_only(refused, checkpoint, dataset, tmp_path):
    def one(file):
        file["supervision"][:] = 1

    refused(*finetune(checkpoint, altered(dataset, one), tmp_path), words=(str(dataset),))


def test_a_file_with_191_columns(refused, checkpoint, tmp_path):
    path = tmp_path / "narrow.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.random.default_rng(0).random((50, 191), np.float32)
        file["supervision"] = (np.arange(50) % 2).astype(np.int8)[:, None]
    refused(*finetune(checkpoint, path, tmp_path), words=(str(path), "191", "192"))


def test_a_file_that_is_not_hdf5(refused, checkpoint, tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("features\n" * 1000)
    refused(*finetune(checkpoint, path, tmp_path), words=(str(path), "HDF5"))


def test_a_truncated_file(refused, checkpoint, dataset, tmp_path):
    dataset.write_bytes(dataset.read_bytes()[: dataset.stat().st_size // 2])
    refused(*finetune(checkpoint, dataset, tmp_path), words=(str(dataset),))


@pytest.mark.parametrize("command", ["finetune", "export", "verify"])
def test_a_file_collected_with_another_policy(refused, checkpoint, dataset, run, tmp_path, command):
    entries = torch.load(checkpoint, weights_only=True)
    entries["model_state_dict"]["state_enc.bias"][3] += 1e-3
    torch.save(entries, checkpoint)
    bundle, other = tmp_path / "bundle", small_network(seed=1)
    save_safetensors(tmp_path / "other.safetensors", other)
    write_policy_file(tmp_path / "other.h5", other, tmp_path / "other.safetensors")
    arguments = {
        "finetune": finetune(checkpoint, dataset, tmp_path),
        "export": ("export", "--checkpoint", checkpoint, "--samples", dataset, "--output", bundle, *RACING),
        "verify": ("verify", run.bundle, "--checkpoint", run.checkpoint, "--h5", tmp_path / "other.h5", "--no-live"),
    }[command]
    refused(*arguments, words=("another policy",))
    assert not bundle.exists()


def test_a_dataset_name_that_does_not_end_in_h5(refused, checkpoint, tmp_path):
    refused("collect", "--checkpoint", checkpoint, "--dataset", tmp_path / "a.hdf5", words=("a.hdf5", ".h5"))


def test_an_existing_dataset_is_kept(refused, checkpoint, dataset):
    before = dataset.read_bytes()
    refused("collect", "--checkpoint", checkpoint, "--dataset", dataset, words=(str(dataset), "--overwrite"))
    assert dataset.read_bytes() == before


# -- places and tasks ----------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written(refused, checkpoint, dataset, tmp_path):
    # A file where a folder is needed cannot be written into, whoever runs the tests.
    blocked = tmp_path / "blocked"
    blocked.write_text("a file\n")
    scripted = ("--task", "helpers.scripted_racing:make")
    refused("collect", "--checkpoint", checkpoint, *scripted, "--dataset", blocked / "a.h5", words=(str(blocked),))
    refused(
        "finetune", "--policy_path", checkpoint, "--h5_path", dataset, "--save_path", blocked, words=(str(blocked),)
    )
    refused("export", "--checkpoint", checkpoint, *RACING, "--output", blocked / "bundle", words=(str(blocked),))
    assert blocked.read_text() == "a file\n"


def test_an_unknown_task(refused, checkpoint, tmp_path):
    refused(
        *("collect", "--checkpoint", checkpoint, "--task", "DiffLab-Quadcopter-CTBR-Racing-v1"),
        *("--dataset", tmp_path / "a.h5"),
        words=("DiffLab-Quadcopter-CTBR-Racing-v1", "did you mean"),
    )
    assert not (tmp_path / "a.h5").exists()


def test_vehicle_numbers_are_never_made_up(refused, checkpoint, tmp_path):
    refused("export", "--checkpoint", checkpoint, "--output", tmp_path / "bundle", words=("--vehicle",))
    assert not (tmp_path / "bundle").exists()


def test_verifying_without_a_dataset_must_be_said(refused, run):
    refused("verify", run.bundle, "--checkpoint", run.checkpoint, words=("--no-replay",))


def test_an_existing_bundle_is_kept(refused, run, bundle_copy):
    before = {path.name: path.read_bytes() for path in bundle_copy.iterdir()}
    refused("export", "--checkpoint", run.checkpoint, "--output", bundle_copy, *RACING, words=("--overwrite",))
    assert {path.name: path.read_bytes() for path in bundle_copy.iterdir()} == before


def test_a_file_that_holds_nothing_known(refused, tmp_path):
    refused("inspect", tmp_path / "nothing.pt", words=("does not exist",))
    (tmp_path / "folder").mkdir()
    refused("inspect", tmp_path / "folder", words=("a folder of an unknown kind",))


@pytest.mark.parametrize("device", ["cdua", "cuda:9"])
def test_a_device_that_is_not_there(refused, checkpoint, tmp_path, device):
    options = ("--device", device)
    refused(
        "collect", "--checkpoint", checkpoint, *options, "--dataset", tmp_path / "a.h5", words=(f"--device {device}",)
    )
    refused("fly", checkpoint, *options, words=(f"--device {device}",))
    assert not (tmp_path / "a.h5").exists()


def test_an_extension_that_is_not_there(refused, checkpoint, tmp_path):
    extension = ("--extension", "no_such_module", "--dataset", tmp_path / "a.h5")
    refused("collect", "--checkpoint", checkpoint, *extension, words=("no_such_module", "not found"))


def test_a_run_folder_is_inspected_at_its_latest_checkpoint(cli, checkpoint):
    assert "model_7.pt" in cli("inspect", checkpoint.parent).stdout
