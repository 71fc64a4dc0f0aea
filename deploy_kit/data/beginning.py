"""How a collection begins, or goes on after an interruption."""

from typing import Any

from deploy_kit.data.schema import FeatureFileInfo, utc_now
from deploy_kit.data.shard_folder import CollectionPlan, Segment, ShardFolder, check_target
from deploy_kit.errors import DatasetError
from deploy_kit.ranks import ALONE, Rank

_SAME = ("feature_sha256", "policy_sha256", "label_rule", "label_threshold_m", "seed", "stage", "backend")
_FREE = ("num_envs", "num_threads", "device", "launcher")
"""Options of an environment that may change when a collection is gone on with."""


def begin_collection(
    folder: ShardFolder,
    info: FeatureFileInfo,
    num_positive: int,
    num_negative: int,
    seed: int,
    overwrite: bool = False,
    resume: bool = False,
    keep_observations: int | None = None,
    rank: Rank = ALONE,
) -> CollectionPlan:
    """Take a feature file's folder for this collection, and begin a flight.

    Args:
        folder: folder of the feature file.
        info: how the rows come about.
        num_positive: positive training rows wanted.
        num_negative: negative training rows wanted.
        seed: seed of the sampling and of the split of the held-out tracks.
        overwrite: replace an existing file, at the end.
        resume: go on with an interrupted collection.
        keep_observations: whole observations wanted, None for all that are given.
        rank: how many processes collect, and the launcher's name of the job.

    Raises:
        DatasetError: the file exists, somebody else collects it, or what is to be gone on with is another collection.
    """
    check_target(folder.target, overwrite, resume)
    folder.lock()
    try:
        created = utc_now() if resume else info.created_utc
        segment = Segment(rank.count, rank.job, created, info.tool_version)
        plan = CollectionPlan(info.to_plain(), num_positive, num_negative, seed, keep_observations)
        if resume:
            before = folder.read_plan()
            _require_same(folder, before, plan)
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
