"""Says in one line what is wrong with a checkout without symbolic links; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

PACKAGE = Path(__file__).resolve().parent / "deploy_kit"

for name in ("export", "verify"):
    if not (PACKAGE / name).is_dir():
        raise SystemExit(
            f"error: {PACKAGE / name} should be a symbolic link to ../{name}, but this copy was made without links "
            "(git with core.symlinks=false, or a zip unpacked on Windows): clone again with "
            "git clone -c core.symlinks=true (Windows: in developer mode), or install a wheel"
        )

setup()
