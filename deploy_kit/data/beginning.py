"""How a collection begins, or goes on after an interruption."""

from typing import Any

from deploy_kit.data.collection_plan import CollectionPlan, Segment
from deploy_kit.data.older_file import older_file_stands
from deploy_kit.data.schema import utc_now
from deploy_kit.data.shard_folder import ShardFolder, check_target
from deploy_kit.errors import DatasetError
from deploy_kit.ranks import ALONE, Rank

_SAME = (
    *("feature_size", "feature_sha256", "policy_sha256", "label_rule", "label_threshold_m"),
    *("seed", "stage", "backend"),
)
_FREE = ("num_envs", "num_threads", "device", "launcher")
"""Options of an environment that may change when a collection is gone on with."""


def begin_collection(
    folder: ShardFolder, plan: CollectionPlan, resume: bool = False, rank: Rank = ALONE
) -> CollectionPlan:
    """Take a feature file's folder for a collection, and begin a flight.

    Args:
        folder: folder of the feature file.
        plan: what is to be collected, without flights.
        resume: go on with an interrupted collection.
        rank: how many processes collect, and the launcher's name of the job.

    Returns:
        The plan with this flight, and those before it.

    Raises:
        DatasetError: the file exists, somebody else collects it, or what is to be gone on with is another collection.
    """
    check_target(folder.target, plan.overwrite, resume)
    folder.lock()
    try:
        created = utc_now() if resume else plan.info["created_utc"]
        segment = Segment(rank.count, rank.job, created, plan.info["tool_version"])
        if resume:
            before = folder.read_plan()
            _require_same(folder, before, plan)
            if not before.overwrite and older_file_stands(folder.target, before):
                raise DatasetError(
                    f"{folder.target} was not made of the rows in {folder.path}, which are to be gone on with; move it "
                    "to another name first"
                )
            return folder.begin_segment(before, segment)
        folder.clear()
        return folder.begin_segment(plan, segment)
    except BaseException:
        folder.unlock()
        raise


def _require_same(folder: ShardFolder, before: CollectionPlan, now: CollectionPlan) -> None:
    found, given = _facts(before), _facts(now)
    for name, value in given.items():
        if found.get(name) != value:
            raise DatasetError(
                f"{folder.path} was collected with {name} {found.get(name)!s:.60}, not {value!s:.60}; give the same, "
                "or collect anew with --overwrite"
            )


def _facts(plan: CollectionPlan) -> dict[str, Any]:
    env = plan.info.get("env_config") or {}
    facts = {name: plan.info.get(name) for name in _SAME}
    # As JSON gives them back: lists for tuples.
    facts |= {name: list(v) if isinstance(v, tuple) else v for name, v in env.items() if name not in _FREE}
    facts |= {"num-positive": plan.num_positive, "num-negative": plan.num_negative}
    return facts | {"keep-observations": plan.keep_observations}
