"""A checkpoint together with the vehicle that it flies."""

from pathlib import Path

from deploy_kit.errors import MissingParametersError
from deploy_kit.policy.checkpoint import Checkpoint, load_checkpoint
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.run.params import load_run_params
from deploy_kit.policy.run.vehicle import Vehicle, resolve_vehicle


def load_with_vehicle(
    path: Path, hints: NetworkHints, task: str | None, vehicle_file: Path | None
) -> tuple[Checkpoint, Vehicle]:
    """Read a checkpoint and collect its vehicle's numbers, so that one message names all that is missing of both.

    Args:
        path: the checkpoint file.
        hints: what neither file nor run say of the network.
        task: task id, see `resolve_vehicle`.
        vehicle_file: file of the vehicle's numbers, see `resolve_vehicle`.

    Raises:
        MissingParametersError: if something is missing of either.
        CheckpointError: see `load_checkpoint`.
        OptionError: see `load_checkpoint` and `resolve_vehicle`.
    """
    try:
        checkpoint = load_checkpoint(path, hints)
    except MissingParametersError as network:
        try:
            resolve_vehicle(load_run_params(path, hints.params), task, vehicle_file)
        except MissingParametersError as vehicle:
            raise MissingParametersError(*network.missing, *vehicle.missing) from network
        raise
    return checkpoint, resolve_vehicle(checkpoint.params, task, vehicle_file)
