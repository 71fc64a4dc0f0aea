"""Verify a bundle on execution providers, with TF32 off and on, and measure a step at batch 1.

    python benchmarks/providers.py OUTPUT --provider cpu --provider cuda
    python benchmarks/providers.py OUTPUT --provider cuda --checkpoint model.pt --episodes 64

On a GPU: torch, deploy-kit's base packages, onnxruntime-gpu in place of onnxruntime, NVIDIA's libraries
(`onnxruntime.preload_dlls()` finds those of pip's nvidia packages), and the extra `sim` unless --no-live is given.
Writes OUTPUT/bundle, a report for each row, and OUTPUT/providers.json; exits with 1 if a row failed.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import onnxruntime

from deploy_kit.bundle.parity import ParityCheck
from deploy_kit.bundle.reader import open_bundle
from deploy_kit.bundle.runners import ArtifactError, OnnxRunner
from deploy_kit.bundle.runtime import EXECUTION_PROVIDERS, Runtime
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.task.racing import TASK_ID
from deploy_kit.timing import Plan, latency, measure, timer
from deploy_kit.verify.report import Status, VerifyReport
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle

STEPS, TURN = 2000, 100


def main() -> int:
    """Verify on each provider; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--provider", action="append", choices=EXECUTION_PROVIDERS, required=True)
    parser.add_argument("--checkpoint", type=Path, default=DEMO_POLICY)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--no-live", action="store_true")
    given = parser.parse_args()
    bundle = given.output / "bundle"
    if not bundle.exists():
        export_bundle(ExportOptions(checkpoint=given.checkpoint, output=bundle, use_auxiliary_head=True, task=TASK_ID))
    rows = []
    for provider in given.provider:
        for tf32 in (False, True) if provider == "cuda" else (False,):
            name = f"{provider}{'-tf32' if tf32 else ''}"
            started = time.monotonic()
            report = verify_bundle(
                VerifyOptions(
                    bundle=bundle,
                    checkpoint=given.checkpoint,
                    replay=False,
                    live=not given.no_live,
                    episodes=given.episodes,
                    providers=(provider,),
                    optimisation_levels=("all", "extended", "basic", "disabled"),
                    tf32=tf32,
                    report=given.output / f"{name}.json",
                )
            )
            rows.append(row(name, report, Runtime(provider, tf32=tf32), bundle, time.monotonic() - started))
            print(json.dumps(rows[-1], indent=2), flush=True)
    data = {"onnxruntime": onnxruntime.__version__, "available": onnxruntime.get_available_providers(), "rows": rows}
    (given.output / "providers.json").write_text(json.dumps(data, indent=2) + "\n")
    return 0 if all(entry["passed"] for entry in rows) else 1


def row(name: str, report: VerifyReport, runtime: Runtime, bundle: Path, seconds: float) -> dict:
    """Return a report in a few figures: largest errors of the graph's outputs, verdict, duration of a step."""
    graph = [check for check in report.checks if isinstance(check, ParityCheck) and "onnx" in check.name]
    errors = {}
    for check in graph:
        for output in check.outputs:
            errors[output.name] = max(errors.get(output.name, 0.0), output.max_error or 0.0)
    return {
        "name": name,
        "passed": report.passed,
        "failed": {v.name: v.reasons[:1] for v in report.verdicts if v.status is Status.FAILED},
        "runtimes": [f"{item.provider} {item.level}" for item in report.runtimes],
        "largest_errors_in_units": errors,
        "decisions_flipped": sum(check.decisions.flipped for check in graph if check.decisions is not None),
        "step_us_p50": step_us(bundle, runtime),
        "seconds": round(seconds, 1),
    }


def step_us(bundle: Path, runtime: Runtime) -> float | None:
    """Return the median duration of one inference at batch 1, µs; None where the provider is not there."""
    opened = open_bundle(bundle)
    try:
        runner = OnnxRunner(opened.onnx_path, opened.contract, runtime=runtime)
    except ArtifactError:
        return None
    rows = opened.golden.observation[:1]
    durations = measure({"step": timer(lambda: runner(rows))}, Plan(STEPS // TURN, TURN))
    return round(latency(durations["step"]).p50_us, 1)


if __name__ == "__main__":
    sys.exit(main())
