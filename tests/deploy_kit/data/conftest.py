"""Small feature files."""

from pathlib import Path

import pytest

from helpers.feature_files import write_numbered_file


@pytest.fixture
def feature_file(tmp_path: Path) -> Path:
    return write_numbered_file(tmp_path / "features.h5")
