"""Fixtures that tests of several rooms share; what they build comes from helpers/."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy_kit.bundle.reader import Bundle, open_bundle
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.verify.report import VerifyReport
from helpers.bundles import Run, copy_bundle, make_racer, make_run
from helpers.flight_logs import Moment, fly_in_millimetres
from helpers.networks import make_network
from helpers.pictures import blank_pictures


@pytest.fixture
def network() -> VisionActorCritic:
    """An untrained network of the reference size."""
    return make_network()


@pytest.fixture(scope="session")
def shipped_policy() -> Path:
    """File of the policy that comes with deploy-kit."""
    return DEMO_POLICY


@pytest.fixture(scope="session")
def reference_run() -> Path:
    """Folder of the reference training run (``stage1_run``)."""
    folder = Path(os.environ.get("DEPLOY_KIT_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference"))
    if not (folder / "stage1_run" / "model_7998.pt").is_file():
        pytest.skip(f"the reference run is not at {folder}; set DEPLOY_KIT_REFERENCE to its folder")
    return folder / "stage1_run"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small policy's checkpoint, feature file and bundle; not to be changed."""
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def racer(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A random policy of the racing task's size, as a bundle; not to be changed."""
    return make_racer(tmp_path_factory.mktemp("racer"))


@pytest.fixture(scope="session")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same of another policy."""
    return make_run(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="session")
def foreign_flight(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Moment]]:
    """A flight whose camera gives millimetres: our log of it, and what other stacks' logs can be written of."""
    log = tmp_path_factory.mktemp("foreign") / "flight.dklog"
    return log, fly_in_millimetres(run.bundle, log)


@pytest.fixture(scope="session")
def shared_bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small policy's bundle, without reports; not to be changed."""
    return open_bundle(copy_bundle(run.bundle, tmp_path_factory.mktemp("shared") / "bundle"))


@pytest.fixture(autouse=True, scope="session")
def reports_read_as_written() -> Iterator[None]:
    """Hold every report that a run writes to its options: no check is missing, none was switched off by itself."""
    write = VerifyReport.write

    def checked(report: VerifyReport, path: Path) -> None:
        write(report, path)
        if report.passed:
            again = VerifyReport.from_json(json.loads(path.read_bytes()))
            assert [check.name for check in again.checks] == [check.name for check in report.checks]
            assert again.left_out == ()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VerifyReport, "write", checked)
        yield


@pytest.fixture
def bundle_copy(shared_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the shared bundle's folder, to be broken."""
    return copy_bundle(shared_bundle.path, tmp_path / "copy")


@pytest.fixture
def pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write blank pictures, unless the test is marked `drawn`."""
    if request.node.get_closest_marker("drawn") is None:
        blank_pictures(monkeypatch)
