"""The wheel that users install holds the three top-level folders under one import name."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_wheel_runs_by_itself(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("deploy_kit", "export", "verify"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source]
    done = subprocess.run([sys.executable, *build], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        archive.extractall(installed)
    assert {top for top in tops if not top.endswith(".dist-info")} == {"deploy_kit"}
    script = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import deploy_kit.export.exporter, deploy_kit.verify.verifier as verifier\n"
        "from deploy_kit.cli.main import main\n"
        f"assert verifier.__file__.startswith({str(installed)!r}), verifier.__file__\n"
        "main(['--version'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("deploy-kit, version ")
