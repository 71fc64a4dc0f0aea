"""Says in one line what is wrong with a checkout without symbolic links; everything else is in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import setup

PACKAGE = Path(__file__).resolve().parent / "deploy_kit"

if problem := runpy.run_path(str(PACKAGE / "links.py"))["links_problem"](PACKAGE):
    raise SystemExit(f"error: {problem}")

setup()
