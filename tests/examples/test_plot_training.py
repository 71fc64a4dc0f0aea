"""The curves of a training run that was stopped and continued."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

SCRIPT = Path(__file__).parents[2] / "examples" / "plot_training.py"
plot_training = runpy.run_path(str(SCRIPT))
TAG = "Train/mean_reward"


def write_events(folder: Path, name: str, values: dict[int, float], tags: tuple[str, ...] = (TAG,)) -> None:
    with SummaryWriter(folder / name) as writer:
        for step, value in values.items():
            for tag in tags:
                writer.add_scalar(tag, value, step)
    # Writers name their files by the second; here the order must be sure.
    (path,) = (folder / name).iterdir()
    path.rename(folder / f"events.out.tfevents.{name}")


def draw(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["plot_training.py", *map(str, arguments)])
    plot_training["main"]()


def test_where_a_run_was_continued_the_later_value_counts(tmp_path: Path) -> None:
    write_events(tmp_path, "2", {2: 20.0, 3: 30.0})
    write_events(tmp_path, "1", {0: 0.0, 1: 1.0, 2: 2.0})
    assert plot_training["read"](tmp_path, TAG) == {0: 0.0, 1: 1.0, 2: 20.0, 3: 30.0}
    assert plot_training["read"](tmp_path, "Train/other") == {}


def test_the_curves_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_events(tmp_path, "1", {0: 0.0, 1: 1.0}, tuple(plot_training["CURVES"]))
    draw(monkeypatch, tmp_path, tmp_path / "curves.png", "--num-envs", 64)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1200, 660)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
    assert (31, 119, 180) in colours  # the lines


def test_a_run_without_a_curve_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_events(tmp_path, "1", {0: 0.0}, ("Curriculum/gate_noise",))
    with pytest.raises(SystemExit, match="no event file there holds 'Metrics/race/gates_passed'"):
        draw(monkeypatch, tmp_path, tmp_path / "curves.png")
