"""Rows that go to the file on a thread of their own are the rows that a plain loop would have written."""

import time
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from deploy_kit.collection.feed import BLOCK_STEPS, TrainingFeed
from deploy_kit.collection.rows import RowMaker
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.errors import DatasetError
from helpers.feature_files import make_info

NUM_ENVS, FEATURES = 3, 4


def records(count: int, tracks: bool = True):
    rng = torch.Generator().manual_seed(1)
    for step in range(count):
        yield SimpleNamespace(
            observation=torch.zeros(NUM_ENVS, 5),
            output=SimpleNamespace(features=torch.randn(NUM_ENVS, FEATURES, generator=rng)),
            label=torch.rand(NUM_ENVS, generator=rng) < 0.3,
            done=torch.rand(NUM_ENVS, generator=rng) < 0.1,
            extras={"track_id": torch.tensor([step % 5, 5, 6])} if tracks else {},
            broken=None,
        )


def writer(path, wanted: int):
    info = make_info(feature_size=FEATURES)
    return FeatureFileWriter(path, info, num_positive=wanted, num_negative=wanted, seed=0)


def contents(path):
    with h5py.File(path) as file:
        return {name: item[:] for name, item in file.items() if isinstance(item, h5py.Dataset)}


@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("steps", [BLOCK_STEPS, 3 * BLOCK_STEPS + 5])
def test_rows_are_those_of_a_plain_loop(tmp_path, steps, tracks):
    with writer(tmp_path / "plain.h5", 10_000) as plain:
        maker = RowMaker(NUM_ENVS, 7)
        for record in records(steps, tracks):
            plain.add_training(**maker.rows(record).columns())
    with writer(tmp_path / "fed.h5", 10_000) as fed, TrainingFeed(fed, RowMaker(NUM_ENVS, 7)) as feed:
        for record in records(steps, tracks):
            feed.add(record)
    plain_rows, fed_rows = contents(tmp_path / "plain.h5"), contents(tmp_path / "fed.h5")
    assert plain_rows["supervision"].sum() == sum(record.label.sum() for record in records(steps))
    for name, values in plain_rows.items():
        order = np.lexsort((plain_rows["step"], plain_rows["episode_id"]))
        fed_order = np.lexsort((fed_rows["step"], fed_rows["episode_id"]))
        np.testing.assert_array_equal(values[order], fed_rows[name][fed_order], err_msg=name)


def test_file_does_not_depend_on_how_late_the_end_is_noticed(tmp_path):
    for name, steps in (("early.h5", 20 * BLOCK_STEPS), ("late.h5", 40 * BLOCK_STEPS)):
        with writer(tmp_path / name, 100) as fed, TrainingFeed(fed, RowMaker(NUM_ENVS)) as feed:
            for record in records(steps):
                feed.add(record)
        assert feed.full
        assert (feed.num_positive, feed.num_negative) == (100, 100)
    early, late = contents(tmp_path / "early.h5"), contents(tmp_path / "late.h5")
    for name, values in early.items():
        np.testing.assert_array_equal(values, late[name], err_msg=name)


def test_an_error_of_the_thread_is_the_callers(tmp_path):
    with (
        pytest.raises(DatasetError, match="not finite"),
        writer(tmp_path / "bad.h5", 100) as fed,
        TrainingFeed(fed, RowMaker(NUM_ENVS)) as feed,
    ):
        for step, record in enumerate(records(100 * BLOCK_STEPS)):
            record.output.features[0, 0] = float("nan")
            feed.add(record)
            time.sleep(0.01 if step % BLOCK_STEPS == 0 else 0)
    assert step < 99 * BLOCK_STEPS, "the caller was stopped, not only told at the end"
