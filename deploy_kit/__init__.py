"""deploy-kit: from a trained vision racing policy to a verified network on the drone.

The public names are loaded when they are first used: importing this package loads nothing else, on which the
onboard runner relies. Their types stand in ``__init__.pyi``.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "collect": "collection.run",
    "CollectOptions": "collection.options",
    "CollectResult": "collection.run",
    "finetune": "finetuning.run",
    "FinetuneOptions": "finetuning.options",
    "FinetuneResult": "finetuning.run",
    "export_bundle": "export.exporter",
    "ExportOptions": "export.options",
    "verify_bundle": "verify.verifier",
    "VerifyOptions": "verify.options",
    "VerifyReport": "verify.report",
    "bench_bundle": "bench.run",
    "BenchOptions": "bench.options",
    "BenchReport": "bench.report",
    "fly": "flight.fly",
    "FlyOptions": "flight.fly",
    "FlyResult": "flight.fly",
    "run_demo": "demo.run",
    "DemoOptions": "demo.options",
    "DemoResult": "demo.run",
    "EnvOptions": "sim.options",
    "make_env": "sim.registry",
    "NetworkHints": "policy.network_hints",
    "Checkpoint": "policy.checkpoint",
    "load_checkpoint": "policy.checkpoint",
    "save_checkpoint": "policy.checkpoint",
    "PolicyCheckpoint": "policy.policy_checkpoint",
    "load_policy": "policy.policy_checkpoint",
    "save_policy": "policy.policy_checkpoint",
    "Bundle": "bundle.reader",
    "open_bundle": "bundle.reader",
    "FeatureFile": "data.reader",
    "open_feature_file": "data.reader",
    "Thresholds": "bundle.thresholds",
    "DeployKitError": "errors",
    "InputError": "errors",
    "CheckFailedError": "errors",
}
"""Public names, with the module that holds each."""

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
