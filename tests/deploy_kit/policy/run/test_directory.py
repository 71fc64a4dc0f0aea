import json
import logging
from pathlib import Path

import pytest

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.run.directory import CheckpointQuery, resolve_checkpoint


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [
        "logs/rsl_rl/racing/2025-12-15_17-07-17_s0/model_900.pt",
        "logs/rsl_rl/racing/2025-12-15_17-07-17_s0/model_3999.pt",
        "logs/rsl_rl/racing/2025-12-16_09-00-00_s1/model_0.pt",
        "logs/rsl_rl/racing/2025-12-16_09-00-00_s1/model_9.pt",
        "logs/rsl_rl/racing/2025-12-16_09-00-00_s1/model_10.pt",
        "logs/rsl_rl/racing/2025-12-16_09-00-00_s1/model_10.pt.tmp",
        "logs/rsl_rl/racing/2025-12-16_09-00-00_s1/policy_finetune_epoch-9.pt",
        "logs/rsl_rl/racing/2025-12-16_09-00-00_s1/policy_finetune_epoch-10.pt",
        "logs/rsl_rl/racing/2025-12-16_09-00-00_s1/params/agent.yaml",
        "logs/rsl_rl/hover/2026-01-01_00-00-00/model_5.pt",
        "checkpoints/published/stage1/model_7998.pt",
        "checkpoints/published/c++/model_2.pt",
        "elsewhere/racing/zz/model_1.pt",
    ]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


RACING = "logs/rsl_rl/racing"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"experiment_name": "racing"}, f"{RACING}/2025-12-16_09-00-00_s1/model_10.pt"),
        ({"experiment_name": "racing", "load_run": ".*_s0"}, f"{RACING}/2025-12-15_17-07-17_s0/model_3999.pt"),
        (
            {"experiment_name": "racing", "load_run": "2025-12-15_17-07-17_s0", "checkpoint": "model_900.pt"},
            f"{RACING}/2025-12-15_17-07-17_s0/model_900.pt",
        ),
        ({"experiment_name": "racing", "checkpoint": r"model_\d\.pt"}, f"{RACING}/2025-12-16_09-00-00_s1/model_9.pt"),
        (
            {"experiment_name": "racing", "checkpoint": "policy_finetune.*"},
            f"{RACING}/2025-12-16_09-00-00_s1/policy_finetune_epoch-10.pt",
        ),
        ({"load_run": "stage1"}, "checkpoints/published/stage1/model_7998.pt"),
        ({"experiment_name": "published", "load_run": "c++"}, "checkpoints/published/c++/model_2.pt"),
        ({"experiment_name": "published"}, "checkpoints/published/stage1/model_7998.pt"),
        ({"experiment_name": "racing", "log_root": Path("elsewhere")}, "elsewhere/racing/zz/model_1.pt"),
        ({"checkpoint": "checkpoints/published/stage1/model_7998.pt"}, "checkpoints/published/stage1/model_7998.pt"),
        ({"checkpoint": "checkpoints/published/stage1"}, "checkpoints/published/stage1/model_7998.pt"),
        ({"load_run": f"{RACING}/2025-12-15_17-07-17_s0"}, f"{RACING}/2025-12-15_17-07-17_s0/model_3999.pt"),
        (
            {"load_run": f"{RACING}/2025-12-15_17-07-17_s0", "checkpoint": "model_900.pt"},
            f"{RACING}/2025-12-15_17-07-17_s0/model_900.pt",
        ),
    ],
)
def test_names_patterns_and_the_latest(logs, query, expected):
    assert resolve_checkpoint(CheckpointQuery(**query)) == Path(expected)


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ({}, OptionError, "no checkpoint is named"),
        ({"experiment_name": "racin"}, CheckpointError, r"did you mean racing\? There are racing, hover, published"),
        (
            {"experiment_name": "racing", "load_run": "2025-12-15_17-07-17_s1"},
            CheckpointError,
            r"no run matches .*did you mean 2025-12-15_17-07-17_s0\?",
        ),
        ({"experiment_name": "racing", "load_run": "2025"}, CheckpointError, "no run matches 2025 in"),
        (
            {"experiment_name": "racing", "checkpoint": "model_11.pt"},
            CheckpointError,
            r"no file matches model_11\.pt .*did you mean model_10\.pt\?",
        ),
        ({"experiment_name": "racing", "checkpoint": "model_1"}, CheckpointError, "no file matches model_1 in"),
        ({"load_run": ".*0.*"}, OptionError, r"several experiments under logs/rsl_rl.*\(hover, racing\)"),
        ({"experiment_name": "racing", "load_run": "("}, OptionError, r"--load_run \( is neither"),
        ({"experiment_name": "racing", "checkpoint": "["}, OptionError, r"--checkpoint \[ is neither"),
        (
            {"checkpoint": f"{RACING}/2025-12-15_17-07-17_s0/model_90.pt"},
            CheckpointError,
            r"did you mean model_900\.pt",
        ),
        ({"checkpoint": "racing"}, CheckpointError, r"say where to search .*did you mean racing\?"),
        ({"checkpoint": RACING}, CheckpointError, r"no model_<n>\.pt lies in logs/rsl_rl/racing"),
        ({"experiment_name": "x", "log_root": Path("nowhere")}, CheckpointError, "no experiment x under nowhere and"),
    ],
)
def test_errors_list_what_there_is(logs, query, error, message):
    with pytest.raises(error, match=message) as caught:
        resolve_checkpoint(CheckpointQuery(**query))
    assert "\n" not in str(caught.value)


def test_the_newest_run_without_checkpoints_is_not_skipped(logs):
    (logs / RACING / "2026-02-01_00-00-00").mkdir()
    with pytest.raises(CheckpointError, match=r"lies in logs/rsl_rl/racing/2026-02-01.*no checkpoints there"):
        resolve_checkpoint(CheckpointQuery(experiment_name="racing"))


@pytest.fixture
def finetuned(tmp_path):
    """A folder as finetuning leaves it: twelve epochs, the third the best."""
    folder = tmp_path / "finetune"
    folder.mkdir()
    for epoch in range(1, 13):
        (folder / f"policy_finetune_epoch-{epoch}.pt").touch()
    epochs = [{"epoch": epoch, "checkpoint": f"policy_finetune_epoch-{epoch}.pt"} for epoch in range(1, 13)]
    (folder / "metrics.json").write_text(json.dumps({"best_epoch": 3, "epochs": epochs}))
    return folder


@pytest.fixture
def said(caplog, monkeypatch):
    """What is logged, also after the command line has switched the library's propagation off."""
    monkeypatch.setattr(logging.getLogger("deploy_kit"), "propagate", True)
    caplog.set_level(logging.INFO, "deploy_kit")
    return caplog


def test_a_finetune_folder_is_its_best_epoch(finetuned, said):
    best = finetuned / "policy_finetune_epoch-3.pt"
    assert resolve_checkpoint(CheckpointQuery(checkpoint=str(finetuned))) == best
    assert "policy_finetune_epoch-3.pt, the best epoch on the validation rows" in said.text


@pytest.mark.parametrize(
    "metrics",
    [
        None,
        "not JSON",
        "[]",
        "[" * 100_000,
        '{"best_epoch": 3, "epochs": [{"epoch": 3, "checkpoint": "../run/model_7.pt"}]}',
        '{"best_epoch": 3, "epochs": [{"epoch": 3, "checkpoint": 7}]}',
        '{"best_epoch": 3, "epochs": [{"epoch": 3, "checkpoint": "policy_finetune_epoch-99.pt"}]}',
    ],
)
def test_a_finetune_folder_that_does_not_tell_the_best_epoch_is_its_last(finetuned, said, metrics):
    (finetuned.parent / "run").mkdir()
    (finetuned.parent / "run" / "model_7.pt").touch()
    (finetuned / "metrics.json").unlink()
    if metrics is not None:
        (finetuned / "metrics.json").write_text(metrics)
    last = finetuned / "policy_finetune_epoch-12.pt"
    assert resolve_checkpoint(CheckpointQuery(checkpoint=str(finetuned))) == last
    assert "policy_finetune_epoch-12.pt, the last epoch, since no metrics.json names the best one" in said.text


def test_a_runs_own_checkpoints_come_before_finetuned_ones(finetuned):
    (finetuned / "model_1.pt").touch()
    assert resolve_checkpoint(CheckpointQuery(checkpoint=str(finetuned))).name == "model_1.pt"
