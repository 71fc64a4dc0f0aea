"""The wheel that users install holds the three top-level folders under one import name, and the demo policy."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {f"deploy_kit/assets/demo/{name}" for name in ("policy.safetensors", "contract.json", "README.md", "LICENSE")}


@pytest.mark.slow
def test_the_wheel_runs_by_itself(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("deploy_kit", "export", "verify"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # The wheel is built from the source distribution, so that this one is whole too.
    build = ["-m", "build", "--no-isolation", "--outdir", tmp_path, source]
    done = subprocess.run([sys.executable, *build], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        assert {name.partition("/")[2] for name in content.getnames()} >= SHIPPED
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        content.extractall(installed)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"deploy_kit"}
    assert names >= SHIPPED
    for name in SHIPPED:
        assert (installed / name).read_bytes() == (ROOT / name).read_bytes()
    script = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import deploy_kit.export.exporter, deploy_kit.verify.verifier as verifier\n"
        "from deploy_kit.cli.main import main\n"
        f"assert verifier.__file__.startswith({str(installed)!r}), verifier.__file__\n"
        "main(['--version'], standalone_mode=False)\n"
        "main(['inspect', 'demo', '--json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("deploy-kit, version ")
    assert f'"path": "{installed}/deploy_kit/assets/demo/policy.safetensors"' in done.stdout
