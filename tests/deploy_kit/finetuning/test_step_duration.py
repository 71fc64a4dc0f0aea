"""How long a step is: the file's word, the user's, the run's, and the racing task's for its policies alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy_kit.errors import DatasetError, OptionError
from deploy_kit.finetuning.step_duration import step_duration
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.policy.run.params import RunParams
from helpers.checkpoints import write_racing_run
from helpers.networks import make_network
from helpers.rsl_rl_files import make_policy


def file(name: str, period: float | None):
    attrs = None if period is None else SimpleNamespace(policy_period_s=period)
    return SimpleNamespace(path=Path(name), attrs=attrs)


def policy(**params):
    return SimpleNamespace(params=RunParams(**params))


SILENT = file("silent.h5", float("nan"))


def test_the_file_comes_first_and_is_not_contradicted():
    source = policy(env={"sim": {"dt": 0.005}, "decimation": 4})
    assert step_duration([SILENT, file("a.h5", 0.01)], None, source) == 0.01
    assert step_duration([file("a.h5", 0.01)], 0.01, source) == 0.01
    with pytest.raises(OptionError, match=r"--seconds-per-step 0\.02, but a\.h5 says 0\.01; leave the option out"):
        step_duration([file("a.h5", 0.01)], 0.02, source)
    with pytest.raises(DatasetError, match=r"0\.01 s in a\.h5, 0\.03 s in b\.h5"):
        step_duration([file("a.h5", 0.01), file("b.h5", 0.03)], None, source)


def test_then_the_user_then_the_run():
    source = policy(env={"sim": {"dt": 0.005}, "decimation": 4})
    assert step_duration([SILENT], 0.05, source) == 0.05
    assert step_duration([SILENT], None, source) == pytest.approx(0.02)
    assert step_duration([SILENT], None, policy(interface={"policy_period_s": 0.04})) == 0.04


def test_only_a_racing_policy_flies_at_the_racing_tasks_pace(tmp_path, caplog):
    racing = load_checkpoint(write_racing_run(tmp_path / "racing", make_network()))
    assert step_duration([file("old.h5", None)], None, racing) == 0.03
    assert "old.h5 does not say how long a step is; 0.03 s are assumed" in caplog.text
    other = load_policy(make_policy(tmp_path / "other", "mlp").path)
    with pytest.raises(OptionError, match=r"silent\.h5 does not say .*; give --seconds-per-step"):
        step_duration([SILENT], None, other)
