from pathlib import Path

import pytest

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy import shipped
from deploy_kit.policy.run.directory import CheckpointQuery, resolve_checkpoint
from deploy_kit.policy.shipped import resolve_name


@pytest.fixture(autouse=True)
def policy(tmp_path, monkeypatch) -> Path:
    """A file in the place of the shipped policy; the working folder is empty."""
    path = tmp_path / "installed" / "policy.safetensors"
    path.parent.mkdir()
    path.write_text("")
    monkeypatch.setattr(shipped, "DEMO_POLICY", path)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return path


def test_the_name_means_the_shipped_policy(policy):
    assert resolve_name("demo") == policy
    assert resolve_checkpoint(CheckpointQuery(checkpoint="demo")) == policy


@pytest.mark.parametrize("name", ["Demo", "demo.pt", "runs/demo", "demo/model_1.pt"])
def test_no_other_name_does(name):
    assert resolve_name(name) == Path(name)
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve_checkpoint(CheckpointQuery(checkpoint=name))


@pytest.mark.parametrize("folder", [False, True])
def test_what_lies_here_under_that_name_is_named_as_a_path(policy, folder, caplog):
    if folder:
        Path("demo").mkdir()
        Path("demo/model_3.pt").write_text("")
    else:
        Path("demo").write_text("")
    own = Path("demo/model_3.pt") if folder else Path("demo")
    assert resolve_checkpoint(CheckpointQuery(checkpoint="demo")) == policy
    assert "what lies here under that name is ./demo" in caplog.text
    caplog.clear()
    for name in ("./demo", str(Path("demo").absolute()), *(["demo/"] if folder else [])):
        assert resolve_checkpoint(CheckpointQuery(checkpoint=name)).samefile(own)
    assert caplog.text == ""


def test_within_a_named_run_it_is_a_name_like_any_other():
    run = Path("logs/rsl_rl/racing/first")
    run.mkdir(parents=True)
    (run / "model_3.pt").write_text("")
    with pytest.raises(CheckpointError, match="no file matches demo"):
        resolve_checkpoint(CheckpointQuery(checkpoint="demo", experiment_name="racing"))
    (run / "demo").write_text("")
    assert resolve_checkpoint(CheckpointQuery(checkpoint="demo", experiment_name="racing")) == run / "demo"


def test_an_installation_without_it_says_so(policy):
    policy.unlink()
    with pytest.raises(CheckpointError, match=r"missing from this installation .*install deploy-kit again"):
        resolve_name("demo")


def test_naming_nothing_mentions_it():
    with pytest.raises(OptionError, match="demo is the policy that comes with deploy-kit"):
        resolve_checkpoint(CheckpointQuery())
