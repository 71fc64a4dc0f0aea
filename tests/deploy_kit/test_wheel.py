"""What users install: the source distribution and the wheel hold the tree's files, and the wheel runs by itself."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Archives(NamedTuple):
    source: Path
    wheel: Path


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """Build the source distribution, and the wheel from it, of a copy that holds the tree's own files alone."""
    folder = tmp_path_factory.mktemp("archives")
    source = folder / "source"
    source.mkdir()
    for name in ("deploy_kit", "export", "verify"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["-m", "build", "--no-isolation", "--outdir", folder, source]
    done = subprocess.run([sys.executable, *build], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return Archives(archive, wheel)


def tree() -> dict[str, bytes]:
    """Give the package's files in the tree, those behind the links included, by their path."""
    return {
        str((Path(folder) / name).relative_to(ROOT)): (Path(folder) / name).read_bytes()
        for folder, _, names in os.walk(ROOT / "deploy_kit", followlinks=True)
        for name in names
        if not folder.endswith("__pycache__")
    }


def test_source_distribution_wheel_and_tree_hold_the_same_files(archives):
    with tarfile.open(archives.source) as content:
        members = {member.name.partition("/")[2]: member for member in content.getmembers() if not member.isdir()}
        source = {
            name: content.extractfile(member).read()
            for name, member in members.items()
            if name.startswith("deploy_kit/") and member.isfile()
        }
    with zipfile.ZipFile(archives.wheel) as content:
        wheel = {name: content.read(name) for name in content.namelist() if ".dist-info/" not in name}
    expected = tree()
    assert {"deploy_kit/export/exporter.py", "deploy_kit/verify/verifier.py", "deploy_kit/py.typed"} <= set(expected)
    for found in (source, wheel):
        assert set(found) == set(expected)
        assert [name for name in expected if found[name] != expected[name]] == []


def smoke(wheel):
    return subprocess.run(
        [ROOT / "scripts" / "smoke-wheel", wheel, "--without-demo"],
        env={**os.environ, "PYTHON": sys.executable, "SITE_PACKAGES": sysconfig.get_path("purelib"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_wheel_runs_in_an_environment_of_its_own(archives):
    done = smoke(archives.wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\ndeploy-kit, version " in done.stdout


def test_a_wheel_that_lacks_a_module_does_not_run(archives, tmp_path):
    """Else the test above would show nothing: the dependencies' folder holds an editable install of this tree too."""
    lacking = tmp_path / archives.wheel.name
    with zipfile.ZipFile(archives.wheel) as whole, zipfile.ZipFile(lacking, "w") as part:
        for name in whole.namelist():
            if name != "deploy_kit/verify/verifier.py":
                part.writestr(name, whole.read(name))
    done = smoke(lacking)
    assert done.returncode == 1
    assert "deploy_kit.verify.verifier" in done.stderr
