"""`deploy-kit collect` on tasks of the user's own: a whole collection, and the one line that each misfit gets."""

import av
import h5py
import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("isaaclab")

from deploy_kit.cli.main import main
from helpers.isaaclab import user_tasks

EXTENSION = user_tasks.__name__
SEEING = ("--activation", "lrelu", "--image-shape", "18x36")
FEW = ("--num-envs", 2, "--num-positive", 8, "--num-negative", 8, "--heldout-episodes", 2, "--keep-observations", 8)


def collect(checkpoint, dataset, *arguments):
    words = ("collect", "--backend", "isaaclab", "--checkpoint", checkpoint, "--dataset", dataset, *SEEING, *arguments)
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refusal(checkpoint, folder, *arguments):
    """Return the error line; nothing may be left behind."""
    result = collect(checkpoint, folder / "rows.h5", *arguments)
    assert result.exit_code == 2, result.output
    assert list(folder.iterdir()) == []
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    return line


def test_a_task_with_an_agent_is_collected_with_video(cube_checkpoint, tmp_path):
    rows = tmp_path / "rows.h5"
    video = ("--video", "--video-length", 5, "--keep-collecting")
    result = collect(cube_checkpoint, rows, "--task", "Cube-Seeing-v0", "--extension", EXTENSION, *FEW, *video)
    assert result.exit_code == 0, result.output
    with h5py.File(rows) as file:
        assert file.attrs["complete"]
        assert file["features"].shape == (16, 192)
        assert file["supervision"][:].sum() == 8
        observation = torch.from_numpy(file["observations/observation"][:])
    assert observation.shape[1] == 7 + 18 * 36
    # The state comes first, as the agent's groups say: an upright cube's quaternion. Then the image, by its height.
    assert observation[:, 3:7].tolist() == [[0.0, 0.0, 0.0, 1.0]] * len(observation)
    torch.testing.assert_close(observation[:, -1], observation[:, 2])
    with av.open(tmp_path / "rows.mp4") as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(50)
        assert sum(1 for _ in container.decode(video=0)) == 5


def test_a_multi_agent_task_is_collected(cube_checkpoint, tmp_path):
    extension = "helpers.isaaclab.multi_agent_tasks"
    result = collect(
        cube_checkpoint, tmp_path / "rows.h5", "--task", "Cube-TwoLabelledAgents-v0", "--extension", extension, *FEW
    )
    assert result.exit_code == 0, result.output
    with h5py.File(tmp_path / "rows.h5") as file:
        assert file["supervision"][:].sum() == 8


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("Cube-Plain-v0", "lacks observation group 'auxiliary' of shape (num_envs, 1); it offers policy (2, 7)"),
        ("Cube-Labelled-v0", "'policy' has 7 numbers, the policy takes 655 (7 state, 18x36 image)"),
        ("Cube-Threefold-v0", "takes 3 actions, the policy gives 4"),
        ("Cube-Seeing-Elu-v0", "the agent that it registers acts otherwise"),
        ("Cube-Seeing-Plain-v0", "does not fit the agent that task 'Cube-Seeing-Plain-v0' registers"),
        ("Cube-Seeing-Blind-v0", "reads observation group 'depth'"),
    ],
)
def test_a_misfit_gets_one_line_and_leaves_nothing(cube_checkpoint, tmp_path, task, words):
    line = refusal(
        cube_checkpoint, tmp_path, "--task", task, "--extension", EXTENSION, "--video", "--keep-collecting", *FEW
    )
    assert words in line


def test_an_extension_module_of_the_users_is_found_on_the_python_path(cube_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "my_cubes.py").write_text(
        "import gymnasium\n"
        f"from {EXTENSION} import LabelledCubeCfg\n"
        'entry = "isaaclab.envs:ManagerBasedRLEnv"\n'
        "gymnasium.register(\n"
        '    "My-Cube-v0", entry, disable_env_checker=True, kwargs={"env_cfg_entry_point": LabelledCubeCfg}\n'
        ")\n"
    )
    results = tmp_path / "results"
    results.mkdir()
    arguments = ("--task", "My-Cube-v0", "--extension", "my_cubes", *FEW)
    assert "--extension my_cubes: module 'my_cubes' is not found" in refusal(cube_checkpoint, results, *arguments)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    assert "task 'My-Cube-v0': observation group 'policy' has 7 numbers" in refusal(
        cube_checkpoint, results, *arguments
    )
