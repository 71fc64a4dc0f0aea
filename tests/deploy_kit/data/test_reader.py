"""Hostile, damaged and foreign files: each gives one clear error, and none is believed."""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy_kit.data import memory
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.errors import DatasetError
from deploy_kit.policy.fingerprint import feature_sha256
from helpers.feature_files import make_info, write_numbered_file


def replaced(file: h5py.File, name: str, data: object, **options: object) -> None:
    del file[name]
    file.create_dataset(name, data=data, **options)


def truncated(file: h5py.File, name: str) -> None:
    replaced(file, name, file[name][:-1])


def changed(name: str, row: int, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][row] = value

    return change


def soft_link(file: h5py.File) -> None:
    file["copy"] = file["features"][()]
    del file["features"]
    file["features"] = h5py.SoftLink("/copy")


def external_link(file: h5py.File) -> None:
    del file["heldout"]
    file["heldout"] = h5py.ExternalLink("other.h5", "/")


def external_storage(file: h5py.File) -> None:
    shape = file["features"].shape
    del file["features"]
    file.create_dataset("features", shape, np.float32, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File) -> None:
    shape = file["features"].shape
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[:] = h5py.VirtualSource("/etc/other.h5", "features", shape)
    del file["features"]
    file.create_virtual_dataset("features", layout)


def huge(file: h5py.File) -> None:
    for name in ("features", "supervision"):
        column = file[name]
        width, dtype = column.shape[1], column.dtype
        del file[name]
        file.create_dataset(name, (10**12, width), dtype, chunks=(256, width))


def filtered(file: h5py.File) -> None:
    column = file["features"]
    storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_chunk((16, column.shape[1]))
    storage.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple(column.shape)
    del file["features"]
    h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, storage)


def packed(file: h5py.File) -> None:
    for name in ("features", "supervision"):
        width, dtype = file[name].shape[1], file[name].dtype
        del file[name]
        file.create_dataset(name, (10**9, width), dtype, chunks=(256, width), compression="gzip")[:256] = 0


def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value

    return change


def training_track_held_out(file: h5py.File) -> None:
    file["track_id"][0] = 102


HOSTILE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "features missing": (lambda f: f.__delitem__("features"), "/features is missing"),
    "labels missing": (lambda f: f.__delitem__("supervision"), "/supervision is missing"),
    "ids missing": (lambda f: f.__delitem__("track_id"), "/track_id is missing"),
    "a group in a dataset's place": (
        lambda f: (f.__delitem__("step"), f.create_group("step")),
        "/step is not a dataset",
    ),
    "a dataset in a group's place": (
        lambda f: (f.__delitem__("heldout"), f.create_dataset("heldout", data=1)),
        "/heldout is not a group",
    ),
    "wrong type": (
        lambda f: replaced(f, "features", f["features"][()].astype("f8")),
        "has type float64, expected float32",
    ),
    "other byte order": (lambda f: replaced(f, "features", f["features"][()].astype(">f4")), "has type >f4, expected"),
    "strings": (lambda f: replaced(f, "step", ["a"] * 80), "/step has type object, expected int32"),
    "wrong rank": (lambda f: replaced(f, "supervision", f["supervision"][:, 0]), r"shape \(80,\), expected rank 2"),
    "scalar": (lambda f: replaced(f, "features", np.float32(1)), r"has shape \(\), expected rank 2"),
    "empty": (lambda f: replaced(f, "features", h5py.Empty("f4")), "has shape None, expected rank 2"),
    "one column less": (lambda f: replaced(f, "features", f["features"][:, 1:]), "/features has 7 columns, expected 8"),
    "wide labels": (
        lambda f: replaced(f, "supervision", np.zeros((80, 2), "i1")),
        "/supervision has 2 columns, expected 1",
    ),
    "unequal lengths": (lambda f: truncated(f, "env_id"), "/env_id has 79 rows where the features have 80"),
    "unequal lengths, held out": (lambda f: truncated(f, "heldout/is_test"), "/heldout/is_test has 79 rows"),
    "unequal lengths, observations": (lambda f: truncated(f, "observations/observation"), "observation has 2 rows"),
    "soft link": (soft_link, "/features is a link"),
    "external link": (external_link, "/heldout is a link"),
    "external storage": (external_storage, "/features keeps its rows in another file"),
    "virtual dataset": (virtual, "/features keeps its rows in another file"),
    "rows without bytes": (huge, "/features claims 1000000000000 rows, .* and holds 0"),
    "a filter of others": (filtered, "/features is stored with HDF5's filter 32015"),
    "more than can be packed": (packed, "/features claims 1000000000 rows"),
    "label 2": (changed("supervision", 7, 2), "/supervision is 2 in row 7; labels are 0 or 1"),
    "label -1": (changed("heldout/supervision", 3, -1), "/heldout/supervision is -1 in row 3"),
    "step out of order": (changed("heldout/step", 5, 9), "/heldout/step is 9 in row 5"),
    "episode in pieces": (changed("heldout/episode_id", slice(60, 80), 1000), "an episode in several pieces"),
    "episode without its beginning": (changed("heldout/episode_id", slice(60, 70), 7), "/heldout/step is 10 in row 70"),
    "track changes in an episode": (
        changed("heldout/track_id", 25, 9),
        "/heldout/track_id changes within an episode, in row 25",
    ),
    "split changes in an episode": (
        changed("heldout/is_test", 5, True),
        "/heldout/is_test changes within an episode, in row 5",
    ),
    "track on both sides": (changed("heldout/track_id", slice(20, 40), 100), "track 100 is in validation and test"),
    "track in training too": (training_track_held_out, "held-out track 102 gave training rows too"),
    "newer schema": (attribute("schema_version", 2), "schema version 2 and this deploy-kit reads 1"),
    "schema of another type": (attribute("schema_version", "1"), "schema version 1 and this deploy-kit reads 1"),
    "attribute missing": (attribute("label_rule", None), "attribute label_rule is missing"),
    "attribute of another type": (attribute("stage", "two"), "attribute stage has the wrong type"),
    "attribute an array": (attribute("prevalence", np.zeros(3)), "attribute prevalence has the wrong type"),
    "attribute no JSON": (attribute("env_config", "{'a'"), "attribute env_config is not JSON"),
    "attribute no mapping": (attribute("env_config", "[1]"), "attribute env_config has the wrong type"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_malformed_file_is_refused(feature_file: Path, case: str) -> None:
    change, message = HOSTILE[case]
    open_feature_file(feature_file).close()
    with h5py.File(feature_file, "r+") as file:
        change(file)
    with pytest.raises(DatasetError, match=message) as raised:
        open_feature_file(feature_file)
    assert str(raised.value).startswith(str(feature_file))
    assert "\n" not in str(raised.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        open_feature_file(tmp_path / "none.h5")


def test_a_bare_name_is_told_where_collect_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="collect it with"):
        open_feature_file(Path("f.h5"))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "f.h5").touch()
    with pytest.raises(DatasetError, match=r"datasets/f\.h5 does: give that"):
        open_feature_file(Path("f.h5"))


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a file"):
        open_feature_file(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a checkpoint", b"\x89HDF"])
def test_not_hdf5(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(DatasetError, match="is not an HDF5 file"):
        open_feature_file(tmp_path / "x.h5")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(feature_file: Path, share: float) -> None:
    data = feature_file.read_bytes()
    feature_file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DatasetError, match="truncated or damaged"):
        open_feature_file(feature_file)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_raises_nothing_but_dataset_errors(feature_file: Path, data: st.DataObject) -> None:
    whole = bytearray(feature_file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(8, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = feature_file.with_name("damaged.h5")
    damaged.write_bytes(whole)
    with suppress(DatasetError), open_feature_file(damaged) as file:
        assert np.isfinite(file.train.features).all()


def test_no_rows_at_all(tmp_path: Path) -> None:
    path = write_numbered_file(tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        for group in (file, file["heldout"]):
            for dataset in [v for v in group.values() if isinstance(v, h5py.Dataset)]:
                dataset.resize(0, axis=0)
        del file.attrs["layout_sha256"]
    with pytest.raises(DatasetError, match="holds no rows"):
        open_feature_file(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_are_checked_when_they_are_read(feature_file: Path, value: float) -> None:
    with h5py.File(feature_file, "r+") as file:
        file["features"][70, 3] = value
        file["observations/observation"][2, 4] = value
        file["heldout/features"][33, 0] = value
    with open_feature_file(feature_file) as file:
        with pytest.raises(DatasetError, match="/features row 70 holds NaN or Inf"):
            _ = file.train.features
        with pytest.raises(DatasetError, match="/features row 70 holds NaN or Inf"):
            list(file.train.blocks(16))
        with pytest.raises(DatasetError, match="/observations/observation row 2 holds"):
            _ = file.observations.observation
        with pytest.raises(DatasetError, match="/heldout/features row 33 holds"):
            _ = file.heldout("test").features


def test_blocks_and_splits_agree_with_the_stored_rows(feature_file: Path) -> None:
    with h5py.File(feature_file) as file:
        features, is_test = file["heldout/features"][()], file["heldout/is_test"][()]
    with open_feature_file(feature_file) as file:
        test = file.heldout("test")
        np.testing.assert_array_equal(test.features, features[is_test])
        blocks = list(test.blocks(7))
        assert [len(block.features) for block in blocks] == [7] * 5 + [5]
        np.testing.assert_array_equal(np.concatenate([block.features for block in blocks]), features[is_test])
        np.testing.assert_array_equal(np.concatenate([block.index for block in blocks]), np.flatnonzero(is_test))
        assert np.concatenate([block.supervision for block in blocks]).sum() == 2
        assert [len(observation) for observation, _ in file.observations.blocks(2)] == [2, 1]


def test_a_file_without_heldout_rows_says_so_when_asked(tmp_path: Path) -> None:
    path = write_numbered_file(tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        del file["heldout"], file["observations"], file.attrs["layout_sha256"]
    with open_feature_file(path) as file:
        assert file.num_heldout == 0
        assert file.observations is None
        with pytest.raises(DatasetError, match="no held-out episodes; collect with --heldout-episodes"):
            file.heldout("test")


def test_one_side_of_the_split_missing_says_so(feature_file: Path) -> None:
    with h5py.File(feature_file, "r+") as file:
        file["heldout/is_test"][:] = False
    with open_feature_file(feature_file) as file:
        assert len(file.heldout("validation")) == 80
        with pytest.raises(DatasetError, match="no held-out test episodes"):
            file.heldout("test")


def test_memory_is_asked_for_before_it_is_taken(feature_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with open_feature_file(feature_file) as file, pytest.raises(DatasetError, match=r"reading /features needs 0\.0 GB"):
        _ = file.train.features


def test_available_memory_respects_a_containers_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = memory.available_memory()
    assert free is not None
    assert free > 10**6
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory.available_memory() == 300_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() == pytest.approx(free, rel=0.5)


def origin_file(path: Path, rows: int, written: int, features: int = 8, **options: object) -> Path:
    label_options = {**options, "chunks": (1000, 1)} if isinstance(options.get("chunks"), tuple) else options
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("features", (rows, features), np.float32, **options)
        labels = file.create_dataset("supervision", (rows, 1), np.int8, **label_options)
        stored[:written] = rng.standard_normal((written, features))
        labels[:written] = rng.integers(0, 2, (written, 1))
    return path


@pytest.mark.parametrize("options", [{}, {"chunks": True}, {"chunks": True, "compression": "gzip"}])
def test_a_file_of_the_origin_loads(tmp_path: Path, options: dict) -> None:
    with open_feature_file(origin_file(tmp_path / "x.h5", 500, 500, **options)) as file:
        assert file.attrs is None
        assert len(file.train) == len(file.train.features) == 500
        assert file.train.track_id is None
        assert file.num_heldout == 0


@pytest.mark.parametrize("options", [{}, {"chunks": True}, {"chunks": (7, 3)}])
@pytest.mark.parametrize("written", [1, 300])
def test_rows_that_the_origin_never_wrote_are_left_out(
    tmp_path: Path, options: dict, written: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = origin_file(tmp_path / "x.h5", 50_000, written, **options)
    with caplog.at_level(logging.WARNING), open_feature_file(path) as file:
        assert len(file.train) == len(file.train.features) == written
    assert f"{50_000 - written} of 50000 rows were never written" in caplog.text


def test_a_file_of_the_origin_that_was_never_written_has_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no rows"):
        open_feature_file(origin_file(tmp_path / "x.h5", 10**9, 0, chunks=(1000, 8)))


def test_the_policy_is_checked(tmp_path: Path, network, caplog: pytest.LogCaptureFixture) -> None:
    sha = feature_sha256(network)
    path = write_numbered_file(tmp_path / "narrow.h5", feature_sha256=sha)
    with (
        open_feature_file(path) as file,
        pytest.raises(DatasetError, match="features have 8 columns, the policy's have 192"),
    ):
        file.require_policy(network)
    origin = origin_file(tmp_path / "origin.h5", 20, 20, features=192)
    with open_feature_file(origin) as file, caplog.at_level(logging.WARNING):
        file.require_policy(network)
    assert "does not say which policy" in caplog.text
    with h5py.File(origin, "r+") as file:
        file.attrs["schema_version"] = 1
    for stored, fits in ((sha, True), ("0" * 64, False)):
        wide = tmp_path / f"{fits}.h5"
        with FeatureFileWriter(wide, make_info(feature_size=192, feature_sha256=stored), 100, 100, seed=0) as writer:
            writer.add_training(np.ones((4, 192)), [0, 1, 0, 1], *np.zeros((4, 4), int))
        with open_feature_file(wide) as file:
            if fits:
                file.require_policy(network)
            else:
                with pytest.raises(DatasetError, match=r"collected with another policy \(feature_sha256 000000000000…"):
                    file.require_policy(network)


def test_the_files_hash_is_that_of_its_bytes(feature_file: Path) -> None:
    import hashlib

    with open_feature_file(feature_file) as file:
        assert file.sha256 == hashlib.sha256(feature_file.read_bytes()).hexdigest()


def test_unwritten_rows_in_the_middle_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = np.zeros((40_000, 3), np.float32)
    features[:100], features[20_000:20_050] = 1, 2
    with h5py.File(tmp_path / "origin.h5", "w") as file:
        file["features"] = features
        file["supervision"] = (np.arange(40_000) < 20_000).astype(np.int8)[:, None]
    with caplog.at_level(logging.WARNING), open_feature_file(tmp_path / "origin.h5") as file:
        assert len(file.train) == 150
        assert file.train.label.sum() == 100
        np.testing.assert_array_equal(file.train.features[:, 0], np.repeat([1, 2], [100, 50]))
        np.testing.assert_array_equal(file.train.index[98:102], [98, 99, 20_000, 20_001])
    assert "39850 of 40000 rows were never written" in caplog.text
