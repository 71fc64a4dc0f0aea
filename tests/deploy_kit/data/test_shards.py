"""What is on the disk for good, and what is made of it after a kill, by another process, or of several processes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from deploy_kit.collection.run import recover
from deploy_kit.data.beginning import begin_collection
from deploy_kit.data.cadence import CheckpointEvery
from deploy_kit.data.collection_plan import CollectionPlan
from deploy_kit.data.fusing import fuse
from deploy_kit.data.lock import is_locked
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.shard import ShardName, ShardState
from deploy_kit.data.shard_folder import RankStatus, ShardFolder
from deploy_kit.data.shard_writer import ShardWriter
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.errors import DatasetError
from deploy_kit.ranks import Rank
from helpers.feature_files import add_episode, feed, keep, make_info, make_step


def start(path: Path, positive: int = 400, negative: int = 400, rows: int = 300, **changes) -> FeatureFileWriter:
    info = changes.pop("info", make_info())
    return FeatureFileWriter(path, info, positive, negative, seed=1, every=CheckpointEvery(rows=rows), **changes)


def abandon(writer: FeatureFileWriter) -> None:
    """Let go of the locks as the system does for a killed process, and of everything that waits in memory."""
    writer.shards._lock.release()
    writer._folder.unlock()


def stored_rows(folder: Path) -> dict[str, np.ndarray]:
    """Read all training rows of finished shards, with h5py alone."""
    parts: dict[str, list[np.ndarray]] = {}
    for path in sorted(folder.glob("shard-*.h5")):
        with h5py.File(path) as file:
            for name, values in file.get("training", {}).items():
                parts.setdefault(name, []).append(values[...])
    return {name: np.concatenate(values) for name, values in parts.items()}


def test_what_finished_shards_hold_survives_a_kill(tmp_path: Path) -> None:
    writer = start(tmp_path / "features.h5", 5000, 5000)
    add_episode(writer, 10**6, 10**6)
    keep(writer)
    feed(writer, 300, envs=16)
    abandon(writer)
    stored = stored_rows(tmp_path / "features.h5.partial")
    label = stored["supervision"][:, 0]
    assert len(label) > 300, "rows are stored before the rate of the negatives is known"
    fused = recover(tmp_path / "features.h5")
    assert fused.num_positive == fused.num_negative == label.sum()
    assert (fused.heldout_episodes, fused.observations) == (1, 3)
    with open_feature_file(tmp_path / "features.h5") as file:
        assert not file.attrs.complete
        rows = file.train
        found = {(e, s) for e, s in zip(rows.episode_id.tolist(), rows.step.tolist(), strict=True)}
        kept = {(e, s) for e, s in zip(stored["episode_id"].tolist(), stored["step"].tolist(), strict=True)}
        assert found <= kept
        positive = label == 1
        lost = {(e, s) for e, s in zip(stored["episode_id"][positive], stored["step"][positive], strict=True)} - found
        assert not lost
    # The shards stay: the collection can be gone on with.
    assert len(list((tmp_path / "features.h5.partial").glob("shard-*.h5"))) >= 2


def test_a_collection_goes_on_to_its_target(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    first = start(path)
    add_episode(first, 10**6, 10**6)
    feed(first, 80, envs=64, prevalence=0.05)
    first.shards.checkpoint()
    limits, seen = first.shards.sampler.limits, list(first.shards.sampler.seen)
    before = stored_rows(tmp_path / "features.h5.partial")
    assert limits[0] < 1.0
    abandon(first)

    with start(path, resume=True) as second:
        assert second.segment == 1
        assert second.shards.sampler.limits == limits, "negatives go on at the rate they had"
        assert second.num_positive == before["supervision"].sum()
        with pytest.raises(DatasetError, match="track 1000000 is held out"):
            second.add_training(**{**make_step(np.random.default_rng(0), 4, 4, 0.1), "track_id": np.full(4, 10**6)})
        feed(second, 400, envs=64, prevalence=0.05, seed=1, start=1000)
        assert second.full
    with open_feature_file(path) as file:
        info, rows = file.attrs, file.train
        assert rows.label.sum() == 400
        assert len(rows) == 800
        assert file.num_heldout == 20
        assert info.complete
        assert info.rows_seen == sum(seen) + 400 * 64
        assert [segment["ranks"] for segment in info.provenance["segments"]] == [1, 1]
        # Rows of both flights are there, about as many as were flown past: 80 of 480 steps.
        early = rows.features[:, 1] < 1000
        assert early[rows.label].mean() == pytest.approx(80 / 480, abs=0.06)
        assert early[~rows.label].mean() == pytest.approx(80 / 480, abs=0.06)
    assert not (tmp_path / "features.h5.partial").exists()


def test_only_the_same_collection_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    with pytest.raises(DatasetError, match="nothing to resume"):
        start(path, resume=True)
    writer = start(path)
    feed(writer, 50)
    writer.shards.checkpoint()
    abandon(writer)
    with pytest.raises(DatasetError, match=r"policy_sha256 aaa.*, not bbb"):
        start(path, resume=True, info=make_info(policy_sha256="b" * 64))
    with pytest.raises(DatasetError, match="num-positive 400, not 500"):
        start(path, 500, resume=True)
    with pytest.raises(DatasetError, match="difficulty"):
        start(path, resume=True, info=make_info(env_config={"difficulty": 0.5}))
    with pytest.raises(DatasetError, match=r"--resume goes on with it, --recover makes features\.h5"):
        start(path)
    other = make_info(env_config={**make_info().env_config, "num_envs": 99})
    abandon(start(path, resume=True, info=other))


def test_a_second_collector_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    with start(path) as writer:
        feed(writer, 50)
        writer.shards.checkpoint()
        for changes in ({"overwrite": True}, {"resume": True}, {}):
            with pytest.raises(DatasetError, match="is being collected by another process"):
                start(path, **changes)
        with pytest.raises(DatasetError, match="is being collected by another process"):
            recover(path)
        feed(writer, 50, start=50)
    with open_feature_file(path) as file:
        assert file.attrs.rows_seen == 400


def test_a_damaged_shard_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "features.h5"
    writer = start(path, 5000, 5000, rows=100)
    feed(writer, 100)
    abandon(writer)
    shards = sorted((tmp_path / "features.h5.partial").glob("shard-*.h5"))
    content = bytearray(shards[1].read_bytes())
    content[len(content) // 2] ^= 1
    shards[1].write_bytes(content)
    fused = recover(path)
    whole = np.concatenate([h5py.File(shard)["training/supervision"][:, 0] for shard in (shards[0], *shards[2:])])
    assert fused.num_positive == whole.sum()
    assert shards[1].name in caplog.text
    assert "left out" in caplog.text


def test_episodes_that_do_not_count_are_left_out_of_finished_shards_too(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    with start(path, 5000, 5000, rows=50) as writer:
        feed(writer, 120)
        stored = stored_rows(tmp_path / "features.h5.partial")
        assert (stored["episode_id"] == 1).any()
        writer.shards.drop_episodes([1])
    with open_feature_file(path) as file:
        assert not (file.train.episode_id == 1).any()
        assert (file.train.episode_id == 2).any()
        assert file.attrs.provenance["dropped_episodes"] == 1


def two_ranks(tmp_path: Path, wanted: int = 300):
    folder = ShardFolder(tmp_path / "features.h5")
    ranks = [Rank(index, 2, index, 2) for index in range(2)]
    plan = begin_collection(folder, CollectionPlan(make_info().to_plain(), wanted, wanted, 1, None), rank=ranks[0])
    return folder, plan, [ShardWriter(folder, plan, rank, CheckpointEvery(rows=200)) for rank in ranks]


@pytest.mark.parametrize("counts", [(1, 3), (2, 3, 4), (3, 1, 2)])
def test_flights_have_numbers_of_their_own_whatever_the_number_of_processes(tmp_path: Path, counts) -> None:
    """Episodes are numbered by them."""
    numbers = []
    for segment, count in enumerate(counts):
        ranks = [Rank(i, count, i, count) for i in range(count)]
        folder = ShardFolder(tmp_path / "features.h5")
        plan = CollectionPlan(make_info().to_plain(), 300, 300, 1, 8)
        plan = begin_collection(folder, plan, resume=segment > 0, rank=ranks[0])
        for rank in ranks:
            writer = ShardWriter(folder, plan, rank)
            numbers.append(writer.flight_number)
            offer(writer, rank.index, 20, seed=segment)
            writer.close()
        folder.unlock()
    assert len(numbers) == len(set(numbers))


def offer(writer: ShardWriter, rank: int, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for time_ in range(steps):
        rows = make_step(rng, time_, 32, 0.05)
        rows["episode_id"] = rows["episode_id"] + 10_000 * rank
        rows["track_id"] = rows["track_id"] + 100 * rank
        writer.add_training(**rows)
        writer.look(now=True)


def test_two_processes_fill_one_file_together(tmp_path: Path) -> None:
    folder, plan, writers = two_ranks(tmp_path)
    steps = 0
    while not all(writer.full for writer in writers):
        for rank, writer in enumerate(writers):
            offer(writer, rank, 5, seed=1000 * rank + steps)
        steps += 5
    # 300 positives at 5 % of 2 x 32 rows a step are about 94 steps; one process alone would need twice as many.
    assert 75 <= steps <= 130
    for writer in writers:
        writer.close()
    fused = fuse(folder, plan, complete=None)
    assert (fused.num_positive, fused.num_negative, fused.full) == (300, 300, True)
    with open_feature_file(folder.target) as file:
        assert file.attrs.rows_seen == steps * 64
        for label in (True, False):
            share = (file.train.track_id[file.train.label == label] >= 100).mean()
            assert share == pytest.approx(0.5, abs=0.15)
    folder.unlock()


def test_of_a_process_that_dies_the_finished_shards_count(tmp_path: Path) -> None:
    folder, plan, writers = two_ranks(tmp_path)
    offer(writers[0], 0, 30, seed=1)
    offer(writers[1], 1, 30, seed=2)
    claimed = writers[1].sampler.seen[1]
    writers[1]._lock.release()
    state = [h5py.File(path).attrs["state"] for name, path in folder.shards() if name.rank == 1][-1]
    durable = json.loads(state)["seen"][1]
    assert 0 < durable < claimed
    writers[0].look(now=True)
    assert writers[0].sampler.total_seen[1] == writers[0].sampler.seen[1] + durable
    assert [status.alive for status in folder.statuses(2, plan.segment)] == [True, False]
    writers[0].close()
    folder.unlock()


def test_names_of_shards() -> None:
    name = ShardName(1, 2, 3)
    assert ShardName.parse(name.file_name) == name
    for other in ("shard-1-2-3.h5", "shard-0001-00002-x.h5", f".{name.file_name}.7.tmp", "collection.json"):
        assert ShardName.parse(other) is None


SCRIPT = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from deploy_kit.data.cadence import CheckpointEvery
    from deploy_kit.data.writer import FeatureFileWriter
    from helpers import feature_files
    every = CheckpointEvery(rows=2000)
    with FeatureFileWriter(Path({path!r}), feature_files.make_info(), 10**6, 10**6, 0, every=every) as writer:
        feature_files.add_episode(writer, 10**6, 10**6)
        for step in range(10**6):
            feature_files.feed(writer, 20, envs=64, prevalence=0.3, seed=step, start=20 * step)
            print(writer.shards.stored_rows, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_process_loses_its_unfinished_shard_alone(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "features.h5"
    script = textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parents[2]), path=str(path)))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        while int(process.stdout.readline()) == 0:
            pass
        time.sleep(np.random.default_rng(seed).uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in process.stdout if line.endswith("\n")]
    assert not is_locked(tmp_path / "features.h5.partial" / "lock")
    stored = stored_rows(tmp_path / "features.h5.partial")["supervision"][:, 0]
    assert len(stored) + 20 >= (said[-1] if said else 0)
    fused = recover(path)
    assert fused.num_positive == stored.sum()
    assert os.path.exists(path)


@pytest.mark.parametrize("group", ["heldout", "training"])
def test_an_end_right_after_going_on_keeps_the_rows_of_before(tmp_path: Path, group: str) -> None:
    path = tmp_path / "features.h5"
    first = start(path)
    if group == "heldout":
        add_episode(first, 10**6, 10**6)
    else:
        feed(first, 4)
    first.shards.checkpoint()
    abandon(first)
    with pytest.raises(KeyboardInterrupt), start(path, resume=True):
        raise KeyboardInterrupt
    with open_feature_file(path) as file:
        assert file.num_heldout + len(file.train) > 0
    assert list((tmp_path / "features.h5.partial").glob("shard-0000-*.h5"))


def test_a_collection_with_a_damaged_shard_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "features.h5"
    writer = start(path, 5000, 5000, rows=100)
    feed(writer, 100)
    abandon(writer)
    shards = sorted((tmp_path / "features.h5.partial").glob("shard-*.h5"))
    shards[1].write_bytes(shards[1].read_bytes()[:1000])
    with start(path, 5000, 5000, resume=True) as second:
        feed(second, 10, start=1000)
    assert shards[1].name in caplog.text
    with open_feature_file(path) as file:
        assert (file.train.features[:, 1] < 1000).any()


@pytest.mark.parametrize("end", ["error", "finish"])
def test_shards_that_cannot_be_read_are_not_removed(tmp_path: Path, end: str) -> None:
    """They may be whole, and their disk or their width the trouble."""
    path = tmp_path / "features.h5"
    writer = start(path)
    feed(writer, 50)
    writer.shards.checkpoint()
    abandon(writer)
    shards = sorted((tmp_path / "features.h5.partial").glob("shard-*"))
    for shard in shards:
        shard.write_bytes(shard.read_bytes()[:-1])
    if end == "error":
        with pytest.raises(ZeroDivisionError), start(path, resume=True):
            raise ZeroDivisionError
    else:
        with pytest.raises(DatasetError, match="no rows were collected"):
            start(path, resume=True).finish(complete=True)
    assert all(shard.exists() for shard in shards)


BAD_PLANS = [
    *({"info": {"feature_size": value}} for value in (None, "a", -1, 0, 10**30, [1])),
    *({"info": {name: [1]}} for name in ("env_config", "provenance")),
    {"info": {"evil": 1}},
    *({"segments": [{"ranks": value}]} for value in ("x", None, 0, -1, 1.5, 10**12)),
    {"segments": [{"tool_version": [1]}]},
    {"num_positive": 10**30},
    {"ended": 5},
    {"made": [5]},
]


def test_a_plan_of_other_values_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    writer = start(path)
    feed(writer, 50)
    writer.shards.checkpoint()
    abandon(writer)
    folder = ShardFolder(path)
    plan = json.loads((folder.path / "collection.json").read_text())
    shards = folder.shards()
    for change in BAD_PLANS:
        bad = {**plan, **change}
        if "info" in change:
            bad["info"] = {**plan["info"], **change["info"]}
        if "segments" in change:
            bad["segments"] = [{**plan["segments"][0], **change["segments"][0]}]
        (folder.path / "collection.json").write_text(json.dumps(bad))
        with pytest.raises(DatasetError, match=r"collection\.json cannot be read"):
            start(path, resume=True)
        assert folder.shards() == shards
    plan["info"]["feature_size"] += 1
    (folder.path / "collection.json").write_text(json.dumps(plan))
    with pytest.raises(DatasetError, match="feature_size"):
        start(path, resume=True)
    assert folder.shards() == shards


@pytest.mark.parametrize(
    "change",
    [
        {"seen": [-5, 0]},
        {"seen": [10**40, 0]},
        {"limits": [float("nan"), 1.0]},
        {"limits": [1.0, -1.0]},
        {"dropped_episodes": [10**30]},
        {"env_steps": float("inf")},
    ],
)
def test_a_state_of_impossible_numbers_is_refused(change: dict[str, object]) -> None:
    state = json.loads(ShardState().to_json())
    assert ShardState.from_json(json.dumps(state)) is not None
    with pytest.raises((ValueError, OverflowError)):
        ShardState.from_json(json.dumps({**state, **change}))


@pytest.mark.parametrize("change", [{"rank": 99}, {"env_steps": "many"}, {"tally": ["ab", "cd", "ef"]}])
def test_a_status_of_other_values_counts_for_none(tmp_path: Path, change: dict[str, object]) -> None:
    folder = ShardFolder(tmp_path / "features.h5")
    folder.lock()
    folder.publish(RankStatus(0, True, 0, "flying"))
    (status,) = folder.statuses(1, 0)
    assert status.state == "flying"
    path = folder.path / "status-00000.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    (status,) = folder.statuses(1, 0)
    assert status.state == "starting"
    folder.unlock()
