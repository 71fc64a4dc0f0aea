"""What a recording holds, read back from the file."""

import numpy as np
import pytest

from deploy_kit.errors import OptionError
from deploy_kit.flight.fly import FlyOptions, fly
from deploy_kit.flight.viewers.recording import require_rerun, write_recording
from deploy_kit.sim.options import EnvOptions
from helpers import scripted_racing

rerun = pytest.importorskip(
    "rerun", reason="the extra 'rerun' is not installed; continuous integration has it in a job"
)

SHAPE = (18, 24)


def read(path):
    """Return the columns of each entity by name, rows of all chunks in order of the timeline, as arrays."""
    from rerun.chunk import RrdReader

    found: dict[str, dict[str, list]] = {}
    for chunk in RrdReader(path).stream().to_chunks():
        table = chunk.to_record_batch()
        columns = found.setdefault(chunk.entity_path, {})
        for name in table.schema.names:
            columns.setdefault(name, []).extend(table.column(name).to_pylist())
    return found


def column(found, entity, name):
    values = np.array(found[entity][name], dtype=float)
    return values.reshape(len(values), -1)


def test_another_name_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"must end in \.rrd"):
        require_rerun(tmp_path / "flight.json")
    require_rerun(tmp_path / "flight.rrd")


def test_the_recording_holds_every_step(flights, tmp_path):
    path = tmp_path / "deep" / "flight.rrd"
    write_recording(path, flights, SHAPE, 0.3)
    assert [entry.name for entry in path.parent.iterdir()] == ["flight.rrd"]
    found = read(path)
    for index, flight in enumerate(flights):
        trace, root = flight.trace, f"/flight_{index}_env_{index}"
        assert np.allclose(
            column(found, f"{root}/drone", "Transform3D:translation"), np.stack(trace.position), atol=1e-5
        )
        assert np.allclose(
            column(found, f"{root}/drone", "Transform3D:quaternion"),
            np.stack(trace.quaternion)[:, [1, 2, 3, 0]],
            atol=1e-6,
        )
        commands = flight.transform.apply(np.stack(trace.action))
        assert np.allclose(column(found, f"{root}/command/thrust", "Scalars:scalars"), commands[:, :1])
        assert np.allclose(column(found, f"{root}/speed", "Scalars:scalars"), np.array(trace.speed)[:, None])
        assert len(found[f"{root}/camera/depth"]["DepthImage:buffer"]) == len(trace.depth)
        assert column(found, f"{root}/gate/passed", "Scalars:scalars").ravel().tolist() == [
            float(passed) for passed in trace.passed
        ]
        assert (f"{root}/gate/probability" in found) is bool(trace.probability)
        for static in ("track/gates", "track/obstacles", "track/numbers", "path"):
            assert f"{root}/{static}" in found


def test_fly_records_the_first_flights(checkpoint, vehicle, tmp_path):
    path = tmp_path / "flight.rrd"
    options = FlyOptions(
        policy=checkpoint,
        env=EnvOptions(num_envs=3),
        task="helpers.scripted_racing:make",
        vehicle_file=vehicle,
        recording=path,
    )
    result = fly(options)
    assert [flight.trace.env for flight in result.watched.flights] == [0, 1, 2]
    assert result.pictures == ()
    found = read(path)
    for env in range(3):
        steps = scripted_racing.length_of(env, 0)
        assert len(column(found, f"/flight_{env}_env_{env}/command/thrust", "Scalars:scalars")) == steps
    with pytest.raises(OptionError, match="--overwrite"):
        fly(options)
