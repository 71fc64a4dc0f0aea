"""How long a step of the recorded flights is."""

import logging
import math
from collections.abc import Sequence

from deploy_kit.data.reader import FeatureFile
from deploy_kit.errors import DatasetError, OptionError
from deploy_kit.policy.any_policy import AnyCheckpoint
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.run.resolve_task import run_timing
from deploy_kit.task.racing import RACING_TASK

logger = logging.getLogger(__name__)


def step_duration(files: Sequence[FeatureFile], given: float | None, source: AnyCheckpoint) -> float:
    """Return the duration of a step, s: what the files say, else what is given, else what the policy's run says.

    For a policy of the racing task's class the last resort is that task's step, with a warning.

    Args:
        files: files of one policy.
        given: what the user says, s; None for nothing.
        source: the policy, beside which its run's files lie.

    Raises:
        DatasetError: files contradict each other.
        OptionError: the files contradict what is given, or nothing says how long a step is.
        CheckpointError: the run's files contradict each other.
    """
    stored = {file.attrs.policy_period_s: file for file in files if file.attrs and file.attrs.policy_period_s > 0}
    if len(stored) > 1:
        found = ", ".join(f"{seconds:g} s in {file.path}" for seconds, file in stored.items())
        raise DatasetError(f"the files have steps of {found}; use files of one policy period")
    for seconds, file in stored.items():
        if given is not None and not math.isclose(given, seconds, rel_tol=1e-6):
            raise OptionError(f"--seconds-per-step {given:g}, but {file.path} says {seconds:g}; leave the option out")
        return seconds
    if given is not None:
        return given
    names = ", ".join(str(file.path) for file in files)
    told = run_timing(source.params).policy_period_s
    if told is not None:
        logger.info("%s does not say how long a step is; %g s by %s", names, told.value, told.source)
        return told.value
    if not isinstance(source, Checkpoint):
        raise OptionError(
            f"{names} does not say how long a step is, nor do the files of the policy's run; give --seconds-per-step"
        )
    period = RACING_TASK.clock.policy_dt
    logger.warning(
        "%s does not say how long a step is; %g s are assumed, the racing task's, or give --seconds-per-step",
        names,
        period,
    )
    return period
