"""Several processes collect one file."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from deploy_kit.collection import flight, processes
from deploy_kit.collection.flight import HELDOUT_PURPOSE, TRAINING_PURPOSE, env_seed
from deploy_kit.collection.run import CollectOptions, CollectResult, collect, file_info, recover
from deploy_kit.data.cadence import CheckpointEvery
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.shard_folder import RankStatus, ShardFolder
from deploy_kit.data.shard_writer import ShardWriter
from deploy_kit.errors import OptionError
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.ranks import Rank, launched_rank, take_gpu, threads_each
from deploy_kit.sim.options import EnvOptions
from helpers.feature_files import write_numbered_file


@pytest.fixture
def options(tmp_path, checkpoint) -> CollectOptions:
    return CollectOptions(
        checkpoint=checkpoint,
        feature_file=tmp_path / "features.h5",
        env=EnvOptions(num_envs=3, seed=4),
        task="helpers.failing_racing:make_dying",
        num_positive=200,
        num_negative=200,
        heldout_episodes=7,
        keep_observations=16,
        checkpoint_every=CheckpointEvery(rows=60),
    )


def test_seeds_of_all_processes_differ():
    seeds = [
        env_seed(s, p, segment, rank) for s in range(3) for p in (0, 1) for segment in range(3) for rank in range(8)
    ]
    assert len(set(seeds)) == len(seeds)
    # One process flies what it always flew.
    assert env_seed(7, 1) == int(np.random.SeedSequence([7, 1]).generate_state(1)[0])


def fly_as_two_ranks(options: CollectOptions) -> list[CollectResult]:
    """Fly both ranks in threads of this process, as torchrun would start them in two."""
    checkpoint = load_checkpoint(options.checkpoint)
    results = [CollectResult(options.feature_file) for _ in range(2)]
    errors: list[BaseException] = []

    def work(index: int) -> None:
        try:
            rank, own = Rank(index, 2, index, 2, "job"), load_checkpoint(options.checkpoint)
            info = file_info(options, checkpoint)
            processes.collect_as_rank(options, own, info, rank, results[index], lambda _: None, lambda _: None)
        except BaseException as error:  # noqa: BLE001  # a thread hands on whatever ended it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return results


def test_ranks_of_a_launcher_share_the_work_and_the_first_one_writes_the_file(options):
    # Enough rows that the rank that starts later has its part in them.
    leader, other = fly_as_two_ranks(replace(options, num_positive=800, num_negative=800))
    assert (leader.num_positive, leader.num_negative, leader.heldout_episodes) == (800, 800, 7)
    assert leader.complete
    assert not leader.failures
    assert other.worker
    assert not leader.worker
    with open_feature_file(options.feature_file) as file:
        heldout, train = file.heldout(), file.train
        assert sorted(set(heldout.env_id.tolist())) == [0, 1, 2, 3, 4, 5]
        assert set(train.env_id.tolist()) == {0, 1, 2, 3, 4, 5}
        ranks = train.episode_id // flight.FLIGHT_IDS
        assert set(ranks.tolist()) == {0, 1}
        assert (train.env_id // 3 == ranks).all()
        # Each rank gives a share of both classes; how large it is depends on the machine's load.
        assert all(set(ranks[train.label == label].tolist()) == {0, 1} for label in (0, 1))
        flown = [{row.tobytes() for row in train.features[ranks == rank]} for rank in (0, 1)]
        assert not flown[0] & flown[1], "no rank flies what another one does"
        assert file.attrs.provenance["segments"][0]["ranks"] == 2


@pytest.mark.slow
def test_a_process_that_is_killed_is_named_and_the_others_fill_the_file(options, monkeypatch):
    monkeypatch.setenv("HELPERS_DYING_RANK", "1")
    wanted = replace(options, num_processes=2, num_positive=400, num_negative=400)
    result = collect(wanted)
    assert result.failures == {1: "it died without a word"}
    assert (result.num_positive, result.num_negative) == (400, 400)
    assert result.heldout_episodes == 7
    with open_feature_file(options.feature_file) as file:
        ranks = file.train.episode_id // flight.FLIGHT_IDS
        assert 0 < (ranks == 1).sum() < (ranks == 0).sum()


@pytest.mark.parametrize(
    ("stopped_by", "status"),
    [("interrupt", RankStatus(0, False, 0, "done")), ("full", RankStatus(0, False, 0, "failed", error="lost"))],
)
def test_an_older_file_is_not_replaced_by_a_part(options, stopped_by, status):
    before = write_numbered_file(options.feature_file).read_bytes()
    folder = ShardFolder(options.feature_file)
    info = file_info(options, load_checkpoint(options.checkpoint))
    plan = processes.begin(replace(options, overwrite=True), info, folder, Rank(0, 1))
    shards = ShardWriter(folder, plan)
    rows = np.arange(8)
    shards.add_training(
        features=np.zeros((8, info.feature_size)),
        label=rows % 2,
        episode_id=rows,
        env_id=rows,
        track_id=rows,
        step=rows,
    )
    shards.close()
    result = CollectResult(options.feature_file, stopped_by=stopped_by)
    processes._conclude(folder, plan, options, [status], result, lambda _: None)
    assert options.feature_file.read_bytes() == before
    assert (result.kept_rows, result.num_positive, result.complete) == (folder.path, 4, False)
    assert recover(options.feature_file, overwrite=True).num_positive == 4
    assert options.feature_file.read_bytes() != before


def test_what_a_launcher_says():
    assert launched_rank({}) == Rank()
    found = launched_rank({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    assert (found.index, found.count, found.local, found.leads) == (3, 8, 1, False)
    assert threads_each(found, 7) == 3
    assert threads_each(found, 1) == 1
    with pytest.raises(OptionError, match="contradicts itself"):
        launched_rank({"RANK": "8", "WORLD_SIZE": "8"})
    with pytest.raises(OptionError, match="must be numbers"):
        launched_rank({"RANK": "a", "WORLD_SIZE": "8"})


def test_each_process_takes_one_gpu():
    environment = {"CUDA_VISIBLE_DEVICES": "4,6"}
    take_gpu(Rank(1, 2, 1, 2), environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "6"
    take_gpu(Rank(1, 2, 1, 2), environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "6"
    with pytest.raises(OptionError, match="has no GPU: 1 are visible"):
        take_gpu(Rank(1, 2, 1, 2), {"CUDA_VISIBLE_DEVICES": "0"})


def test_purposes_have_seeds_of_their_own():
    assert env_seed(4, HELDOUT_PURPOSE) != env_seed(4, TRAINING_PURPOSE)
