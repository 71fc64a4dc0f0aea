from pathlib import Path

import pytest

from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.task.racing import TASK_ID


@pytest.fixture(scope="session")
def demo_bundle(shipped_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the policy that comes with deploy-kit; not to be changed."""
    folder = tmp_path_factory.mktemp("demo") / "bundle"
    return export_bundle(
        ExportOptions(checkpoint=shipped_policy, output=folder, use_auxiliary_head=True, task=TASK_ID, num_golden=8)
    )
