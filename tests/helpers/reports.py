"""Reports of a verification, as they would lie beside a bundle with a C++ header."""

import json
from pathlib import Path

from deploy_kit.files import file_sha256

REPORT = {
    "schema_version": 3,
    "passed": True,
    "complete": True,
    "runtimes": [],
    "verdicts": [{"name": name, "status": "passed"} for name in ("cpp/text", "cpp/run", "replay/golden/cpp")],
}


def write_report(folder: Path, **changes: object) -> None:
    """Put a good report beside a bundle, changed as told."""
    subject = {"manifest_sha256": file_sha256(folder / "manifest.json")}
    (folder / "report.json").write_text(json.dumps(REPORT | {"subject": subject} | changes))


def weight_the_rise(data):
    rise = {"slope_gain": 0.5, "slope_steps": 3, "slope_s": 0.09, "slope_rise": 0.01}
    data["gate"]["detector"].update(rise, refractory_steps=1)
