"""Flights of small policies in a toy that stands for the racing task, with the command that acts in its observation."""

import tempfile
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest

from deploy_kit.cpp.compiler import build_library
from deploy_kit.sim import registry
from deploy_kit.verify import bench
from deploy_kit.verify.structure import sandboxed_library
from helpers.cpp_headers import QUICK
from helpers.toy_env import FlownEnv

FLOWN = MappingProxyType(
    {"live": True, "live_modes": ("shadow",), "episodes": 16, "feature_file": None, "replay": False, "random_rows": 8}
)
"""Options of a verification that flies it and does little else."""


@cache
def _built(text: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return build_library(text, Path(folder), QUICK).read_bytes()


def _build_quickly(text: str, folder: Path) -> Path:
    path = folder / "policy.so"
    path.write_bytes(_built(text))
    return path


def build_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the judge build headers without optimisation, and each text once."""
    monkeypatch.setattr(sandboxed_library, "build_library", _build_quickly)


def fly_small_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the toy in the racing task's place, and let headers be built quickly."""
    build_quickly(monkeypatch)
    monkeypatch.setattr(bench, "_RACING_IMAGE", (24, 32))
    monkeypatch.setattr(registry, "make_env", lambda options, *_: FlownEnv(options.num_envs, options.seed))
