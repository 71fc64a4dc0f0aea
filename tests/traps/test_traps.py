"""Wrong bundles, consistent in themselves, that verify must fail by the checks meant for them, and diagnose."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy_kit.verify.report import Status
from deploy_kit.verify.table import format_table
from deploy_kit.verify.verifier import verify_bundle
from helpers.contract_traps import other_checkpoint_hash
from helpers.documentation import documented_block
from helpers.mutations import change_weight, copied, largest_off, mutate_contract, mutate_graph, publish
from helpers.trap_catalogue import TRAPS, Kit

DOCS = Path(__file__).resolve().parents[2] / "docs" / "traps.md"


def verified(run, **changes):
    report = verify_bundle(run.verify(search_evaluations=64, **changes))
    failed = {verdict.name for verdict in report.verdicts if verdict.status is Status.FAILED}
    assert format_table(report)
    return report, failed


def belongs(name, part):
    """Whether a check looks at this part of a bundle, or at all of them."""
    if part == "all":
        return True
    return name.startswith(f"{part}/") or (name.startswith("replay/") and name.endswith((f"/{part}", f"/{part}-head")))


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.what.replace(" ", "-"))
def test_trap_is_caught_and_diagnosed(run, other_run, tmp_path, monkeypatch, trap):
    options = dict(trap.options)
    wrong = trap.make(Kit(run, other_run, tmp_path, monkeypatch))
    if "vehicle_file" in options:
        options["vehicle_file"] = tmp_path / options["vehicle_file"]
    report, failed = verified(wrong, **options)
    assert not report.passed
    assert set(trap.caught_by) <= failed
    # Nothing else is blamed.
    assert {name for name in failed if not belongs(name, trap.part)} - set(trap.caught_by) == set()
    said = " | ".join(map(str, report.diagnosis))
    assert trap.diagnosis in said


def test_there_are_enough_traps_of_every_kind():
    assert len(TRAPS) >= 40
    parts = {trap.part for trap in TRAPS}
    assert {"onnx", "torchscript", "safetensors", "golden", "contract", "bundle", "dataset", "all"} <= parts
    names = [(trap.part, trap.what) for trap in TRAPS]
    assert len(set(names)) == len(names)


def test_traps_in_the_docs_are_these():
    rows = [
        f"| {trap.what} | {', '.join(f'`{name}`' for name in trap.caught_by)} | {trap.diagnosis or '—'} |"
        for trap in TRAPS
    ]
    documented_block(DOCS, "traps", ["| what was done | fails | diagnosis |", "|---|---|---|", *rows])


def test_the_right_bundle_passes(run, tmp_path):
    report, failed = verified(run, report=tmp_path / "report.json")
    assert failed == set()
    assert report.diagnosis == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stem.0.weight", set()),
        ("stem.0.bias", set()),
        ("state_enc.weight", set()),
        ("actor.4.bias", {"replay/heldout/onnx-head"}),
        ("aux_decoder.bias", {"replay/heldout/onnx-head"}),
    ],
)
def test_one_weight_off_by_a_thousandth_shows_in_behaviour_too(run, tmp_path, name, expected):
    _, failed = verified(mutate_graph(run, tmp_path, lambda model: change_weight(model, name, largest_off)))
    # A weight of a channel that is hardly ever active (stem.0) shows in extreme inputs alone.
    assert {"onnx/proof", "replay/extreme/onnx", *expected} <= failed


def test_altered_checkpoint_hash_is_named(run, tmp_path):
    report, _ = verified(mutate_contract(run, tmp_path, other_checkpoint_hash))
    check = next(check for check in report.checks if check.name == "contract/checkpoint")
    assert "000000000000" in check.note


def test_contract_of_other_sizes_fails_without_a_replay(run, tmp_path):
    def mutate(contract):
        return replace(contract, network=replace(contract.network, feature_size=25))

    result = copied(run, tmp_path)
    path = result.bundle / "golden.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["features"] = np.pad(arrays["features"], ((0, 0), (0, 1)))
    np.savez(path, **arrays)
    publish(result.bundle)
    report, _ = verified(mutate_contract(result, tmp_path / "second", mutate))
    assert report.verdict("contract/network").status is Status.FAILED
    assert report.verdict("replay").status is Status.NOT_RUN
    assert not report.passed
