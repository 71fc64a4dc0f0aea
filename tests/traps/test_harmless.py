"""Right bundles in other forms, which verify must pass."""

from pathlib import Path

import pytest

from deploy_kit.verify.report import Status
from deploy_kit.verify.table import format_table
from deploy_kit.verify.verifier import verify_bundle
from helpers.documentation import documented_block
from helpers.harmless_catalogue import HARMLESS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "traps.md"


@pytest.mark.parametrize("change", HARMLESS, ids=lambda change: change.what.replace(" ", "-"))
def test_harmless_change_passes(run, tmp_path, change):
    options = {name: tmp_path / value if name.endswith("file") else value for name, value in change.options.items()}
    report = verify_bundle(change.make(run, tmp_path).verify(search_evaluations=64, **options))
    assert [verdict.name for verdict in report.verdicts if verdict.status is Status.FAILED] == [], format_table(report)
    assert report.passed
    assert report.diagnosis == ()
    ran = {verdict.name for verdict in report.verdicts if verdict.status is Status.PASSED}
    assert {"onnx/proof", "torchscript/proof", "torchscript/run", "replay/search/onnx"} <= ran


def test_there_are_enough_harmless_changes():
    assert len(HARMLESS) >= 15


def test_harmless_changes_in_the_docs_are_these():
    rows = [f"| {change.what} |" for change in HARMLESS]
    documented_block(DOCS, "harmless", ["| how it differs, and passes |", "|---|", *rows])
