"""Damaged files of every kind: our error, what was written, or finite data; never a crash, a hang, or much memory."""

import zlib
from collections import Counter

import numpy as np
import pytest

from helpers.corruption import NAMES, Kind, corrupt, judge, kinds, place

FILES = 40
"""Damaged files of each kind; benchmarks/fuzz_readers.py tries as many as wanted."""


@pytest.fixture(scope="module")
def sound(run, tmp_path_factory) -> dict[str, Kind]:
    return {kind.name: kind for kind in kinds(run, tmp_path_factory.mktemp("sound"))}


def test_all_kinds_are_tried(sound):
    assert tuple(sound) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")  # libraries warn of what they then refuse
def test_damaged_files(sound, tmp_path, name):
    kind = sound[name]
    path = place(kind, tmp_path / "file")
    expected = kind.read(path)
    assert judge(kind, path, expected) == "same"
    found = Counter()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for _ in range(FILES):
        path.write_bytes(corrupt(kind.content, rng))
        found[judge(kind, path, expected)] += 1
    assert not [verdict for verdict in found if verdict.startswith("WRONG")], found
    assert found["refused"] > FILES / 8, found
