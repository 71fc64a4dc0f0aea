"""Shuffled signed rows, from memory and streamed."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deploy_kit.data import blocks as blocks_module
from deploy_kit.data.blocks import PIECE_ROWS, ShuffledRows, signed_rows
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.rows import Matrix, Rows
from deploy_kit.errors import DatasetError, OptionError
from deploy_kit.finetuning.learners.cuda import CudaRows

WIDTH = 4


def write(path: Path, rows: int, offset: int = 0) -> Path:
    """Rows as the origin stored them; column 0 numbers them, a third is positive, positives come first."""
    number = np.arange(offset, offset + rows)
    features = np.stack([number + 1, number % 7, -number, np.ones(rows)], axis=1).astype(np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, chunks=(256, WIDTH))
        file.create_dataset("supervision", data=(np.arange(rows) < rows // 3).astype(np.int8)[:, None])
    return path


@pytest.fixture
def parts(tmp_path: Path):
    with (
        open_feature_file(write(tmp_path / "a.h5", 10_000)) as one,
        open_feature_file(write(tmp_path / "b.h5", 3001, 10_000)) as other,
    ):
        yield [one.train, other.train]


@pytest.fixture
def streamed(parts: list[Rows], monkeypatch: pytest.MonkeyPatch) -> ShuffledRows:
    """Rows with memory for about 2 500 of the 13 001."""
    monkeypatch.setattr(blocks_module, "_room", lambda memory: 2500 * (WIDTH + 1) * 4 + 3 * 256 * (WIDTH + 1) * 4)
    found = ShuffledRows(parts)
    assert found.streamed
    return found


def everything(parts: list[Rows]) -> np.ndarray:
    return np.concatenate([signed_rows(part.features, part.label) for part in parts])


def gather(rows: ShuffledRows, seed: int, size: int = 256) -> tuple[np.ndarray, list[int]]:
    copies = [block.copy() for block in rows.shuffled((0, seed), size)]
    return np.concatenate(copies), [len(block) for block in copies]


def test_signed_rows_carry_class_and_one() -> None:
    found = signed_rows(np.array([[2.0, 3.0], [4.0, 5.0]], np.float32), np.array([True, False]))
    np.testing.assert_array_equal(found, [[2, 3, 1], [-4, -5, -1]])


@pytest.mark.parametrize("kind", ["memory", "streamed"])
def test_an_epoch_holds_every_row_once_in_whole_blocks(
    parts: list[Rows], streamed: ShuffledRows, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    rows = streamed
    if kind == "memory":
        monkeypatch.setattr(blocks_module, "_room", lambda memory: None)
        rows = ShuffledRows(parts)
        assert not rows.streamed
    assert (rows.rows, rows.positives) == (13_001, 3333 + 1000)
    expected = everything(parts)
    found, sizes = gather(rows, 1)
    assert sizes == [256] * 50 + [201]
    np.testing.assert_array_equal(found[np.argsort(np.abs(found[:, 0]))], expected)
    again, _ = gather(rows, 1)
    np.testing.assert_array_equal(found, again)
    other, _ = gather(rows, 2)
    assert (found != other).any()
    np.testing.assert_array_equal(np.concatenate([b.copy() for b in rows.in_order(1000)]), expected)


@pytest.mark.parametrize("group_pieces", [2, 5, 256])
@pytest.mark.parametrize("room_rows", [300, 2500, 6000, 13_000])
@pytest.mark.parametrize("size", [256, 1000])
def test_the_order_is_the_same_in_memory_streamed_and_on_a_device(
    parts: list[Rows], monkeypatch: pytest.MonkeyPatch, group_pieces: int, room_rows: int, size: int
) -> None:
    monkeypatch.setattr(blocks_module, "GROUP_PIECES", group_pieces)
    row_bytes = (WIDTH + 1) * 4
    monkeypatch.setattr(blocks_module, "_room", lambda memory: room_rows * row_bytes)
    streamed = ShuffledRows(parts)
    monkeypatch.setattr(blocks_module, "_room", lambda memory: None)
    loaded = ShuffledRows(parts)
    assert (streamed.streamed, loaded.streamed) == (True, False)
    expected, sizes = gather(loaded, 5, size)
    found, streamed_sizes = gather(streamed, 5, size)
    np.testing.assert_array_equal(found, expected)
    assert sizes == streamed_sizes
    np.testing.assert_array_equal(np.unique(np.abs(found[:, 0])), np.arange(1, 13_002))
    on_device = torch.cat(list(CudaRows(loaded, "cpu").shuffled((0, 5), size))).numpy()
    np.testing.assert_array_equal(on_device, expected)
    plain = np.random.default_rng([0, 5]).permutation(13_001)
    assert (np.abs(expected[:, 0]) == plain + 1).all() == (group_pieces == 256)
    for one, other in zip(loaded.in_order(3000), streamed.in_order(3000), strict=True):
        np.testing.assert_array_equal(one, other)


def test_whole_groups_are_read_once_where_they_fit(parts: list[Rows], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "GROUP_PIECES", 3)
    monkeypatch.setattr(blocks_module, "_room", lambda memory: (2 * 3 * PIECE_ROWS + 4 * 256) * (WIDTH + 1) * 4)
    reads: list[int] = []
    read = ShuffledRows._read
    monkeypatch.setattr(ShuffledRows, "_read", lambda rows, piece, out: (reads.append(1), read(rows, piece, out)))
    gather(ShuffledRows(parts), 0)
    assert len(reads) == 10 + 3


def test_groups_are_mixed_over_the_files(streamed: ShuffledRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "GROUP_PIECES", 3)
    found, _ = gather(streamed, 3)
    place = np.abs(found[:1024, 0])
    # Pieces of different places are among the first rows, and neighbours are no neighbours any more.
    assert np.unique(place // PIECE_ROWS).size >= 3
    assert np.mean(np.abs(np.diff(place)) == 1) < 0.05
    firsts = [np.abs(next(streamed.shuffled((0, seed), 256))[:, 0]) // PIECE_ROWS for seed in range(5)]
    assert len({tuple(np.unique(first)) for first in firsts}) > 1


def test_selected_rows_can_be_streamed(parts: list[Rows], streamed: ShuffledRows) -> None:
    mask = np.arange(10_000) % 3 == 0
    chosen = parts[0].select(mask)
    found, _ = gather(ShuffledRows([chosen] * 3), 0)
    np.testing.assert_array_equal(np.unique(np.abs(found[:, 0])), np.flatnonzero(mask) + 1)


def test_rows_that_are_streamed_are_not_in_memory(streamed: ShuffledRows) -> None:
    with pytest.raises(OptionError, match="do not fit into --memory"):
        _ = streamed.loaded


def test_a_bound_below_what_the_program_takes_is_refused(parts: list[Rows]) -> None:
    with pytest.raises(OptionError, match=r"--memory 10 MiB is too little: at least \d+ MiB are needed"):
        ShuffledRows(parts, 10 * 2**20)


def test_a_fault_in_the_middle_is_raised_where_blocks_are_used(
    streamed: ShuffledRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Matrix.part

    def damaged(matrix: Matrix, start: int, stop: int) -> np.ndarray:
        if start <= 8000 < stop:
            raise DatasetError("row 8000 holds NaN")
        return whole(matrix, start, stop)

    monkeypatch.setattr(Matrix, "part", damaged)
    with pytest.raises(DatasetError, match="row 8000 holds NaN"):
        gather(streamed, 0)


def test_a_reader_that_stops_early_leaves_no_thread(streamed: ShuffledRows) -> None:
    import threading

    before = threading.active_count()
    order = streamed.shuffled((0, 0), 256)
    next(order)
    order.close()
    assert threading.active_count() == before
