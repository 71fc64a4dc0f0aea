"""How often verify fails right bundles: many runs under different seeds, threads, graph optimisations, vehicles.

    python benchmarks/false_alarms.py WORK --runs 200 [--checkpoint FILE --feature-file FILE]

Each run takes a policy (the demo policy, random weights of the demo's shape, and the given checkpoint, in turn), a
bundle of it (plain, flat with commands and a probability, fixed batch, another vehicle; exported once), and verifies
without flights under a seed of its own, one of several numbers of threads and one of onnxruntime's levels of graph
optimisation. One line a run, then how many failed and the largest share of a limit.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from deploy_kit.bundle import runners
from deploy_kit.bundle.parity import ParityCheck, share_of_tolerance, tolerance_of
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.report import Status, VerifyReport
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle

VEHICLE = {
    "max_thrust_to_weight": 2.4,
    "max_body_rate": 8.0,
    "gravity": 9.81,
    "policy_period_s": 0.02,
    "depth_period_s": 0.04,
    "action_latency_steps": 1,
}

KINDS: dict[str, dict[str, object]] = {
    "plain": {"task": TASK_ID},
    "flat, commands, probability": {
        "task": TASK_ID,
        "input_layout": "flat",
        "physical_actions": True,
        "gate_output": "probability",
    },
    "batch of 4": {"task": TASK_ID, "batch_size": 4},
    "another vehicle": {},
}

THREADS = (1, 2, 4)
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


def policies(work: Path, given: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield names and checkpoints."""
    yield "demo", DEMO_POLICY
    demo = load_checkpoint(DEMO_POLICY)
    torch.manual_seed(7)
    network = VisionActorCritic(demo.network.config).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 2.0)
            module.bias.data.uniform_(-0.5, 0.5)
    save_safetensors(work / "random.safetensors", network, 1, None)
    yield "random weights", work / "random.safetensors"
    if given is not None:
        yield "given", given


def bundles(work: Path, name: str, checkpoint: Path, vehicle: Path) -> Iterator[tuple[str, Path, dict[str, object]]]:
    """Yield kinds, bundles and what verify must be told."""
    for kind, options in KINDS.items():
        folder = work / f"{name}-{kind}".replace(" ", "-").replace(",", "")
        told: dict[str, object] = {} if "task" in options else {"vehicle_file": vehicle}
        if not folder.exists():
            base = ExportOptions(checkpoint, folder, use_auxiliary_head=True)
            export_bundle(replace(base, **options, **told))
        yield kind, folder, told


def shares(report: VerifyReport) -> dict[str, float]:
    """Return the largest share of its limit that each set of inputs used up."""
    found: dict[str, float] = {}
    for check in report.checks:
        if isinstance(check, ParityCheck):
            name = check.name.split("/")[1]
            for output in check.outputs:
                share = share_of_tolerance(output, tolerance_of(check, report.thresholds))
                found[name] = max(found.get(name, 0.0), share or 0.0)
    return found


def at_level(level: str) -> None:
    """Let every session of onnxruntime that verify makes optimise its graph at this level."""
    ort = runners.import_onnxruntime()
    made = ort.InferenceSession

    class Session(made):  # type: ignore[misc,valid-type] # a class that is known at run time alone
        def __init__(self, source: object, options: object, **others: object) -> None:
            # onnxruntime makes these names in C, where mypy sees none.
            options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)  # type: ignore[attr-defined]
            super().__init__(source, options, **others)

    ort.InferenceSession = Session


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--feature-file", type=Path, help="of the demo policy's features")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    vehicle = given.work / "vehicle.json"
    vehicle.write_text(json.dumps(VEHICLE))
    cases = [
        (name, checkpoint, *bundle)
        for name, checkpoint in policies(given.work, given.checkpoint)
        for bundle in bundles(given.work, name, checkpoint, vehicle)
    ]
    ort = runners.import_onnxruntime()
    plain = ort.InferenceSession
    failures, largest, started, done = 0, {}, time.monotonic(), 0
    for number in range(given.runs):
        if time.monotonic() - started > given.seconds:
            break
        name, checkpoint, kind, folder, told = cases[number % len(cases)]
        threads, level = THREADS[number % len(THREADS)], LEVELS[number // len(cases) % len(LEVELS)]
        torch.set_num_threads(threads)
        ort.InferenceSession = plain
        at_level(level)
        options = VerifyOptions(
            folder, checkpoint, replay=False, live=False, seed=1000 + number, report=given.work / "report.json", **told
        )
        if name == "demo" and given.feature_file is not None:
            options = replace(options, replay=True, feature_file=given.feature_file)
        began = time.process_time()
        report = verify_bundle(options)
        failed = [verdict.name for verdict in report.verdicts if verdict.status is Status.FAILED]
        failures, done = failures + bool(failed), done + 1
        for part, share in shares(report).items():
            largest[part] = max(largest.get(part, 0.0), share)
        print(
            f"{number} {name}, {kind}, {threads} threads, {level}, seed {options.seed}: "
            f"{'FAILED ' + ', '.join(failed) if failed else 'passed'} in {time.process_time() - began:.1f} s of CPU",
            flush=True,
        )
    print(f"{failures} of {done} right bundles failed; largest share of the limit by inputs:")
    print(", ".join(f"{part} {share:.2f}" for part, share in sorted(largest.items())))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
