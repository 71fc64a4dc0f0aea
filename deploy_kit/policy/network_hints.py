"""What weights cannot tell: activation, image shape and the normaliser's epsilon, from the run or from options."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy_kit.errors import CheckpointError, MissingParametersError, OptionError

if TYPE_CHECKING:
    from deploy_kit.policy.network import NetworkConfig
    from deploy_kit.policy.run.params import RunParams

DEFAULT_NORMALIZER_EPS = 1e-2
"""Epsilon of rsl_rl's EmpiricalNormalization; checkpoints do not store it."""


@dataclass(frozen=True)
class NetworkHints:
    """What the user says of a network whose checkpoint, or run, does not say it.

    Attributes:
        activation: activation name as rsl_rl spells it.
        image_shape: (rows, columns) of the depth image.
        normalizer_eps: epsilon of a stored observation normaliser; rsl_rl's 1e-2 if nobody says.
        params: folder with the run's ``agent.yaml`` and ``env.yaml``; ``params/`` beside the checkpoint if None.
        observation_shapes: (name, shape) of observation groups, for policies other than `VisionActorCritic`.
        feature_layer: layer whose inputs are the features, for such policies; the layer that gives the action if None.
        extensions: modules to import, since they register networks of the user's own.
    """

    activation: str | None = None
    image_shape: tuple[int, int] | None = None
    normalizer_eps: float | None = None
    params: Path | None = None
    observation_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    feature_layer: str | None = None
    extensions: tuple[str, ...] = ()


NO_HINTS = NetworkHints()
"""Nothing said: file and run must tell."""


@dataclass(frozen=True)
class NetworkParameters:
    """What weights cannot tell, known.

    Attributes:
        activation: activation name, lower case.
        image_shape: (rows, columns) of the depth image.
        normalizer_eps: epsilon of the observation normaliser, if there is one.
    """

    activation: str
    image_shape: tuple[int, int]
    normalizer_eps: float


def resolve_network_parameters(
    hints: NetworkHints, params: "RunParams", record: dict[str, Any], path: Path
) -> NetworkParameters:
    """Collect from hints, run and file what weights cannot tell.

    Args:
        hints: what the user says.
        params: what the run says.
        record: what deploy-kit's record in the file says.
        path: the checkpoint, for messages.

    Raises:
        MissingParametersError: if nobody says activation, image shape or both.
        OptionError: if two contradict each other, or a value is not supported.
    """
    from deploy_kit.policy.network import ACTIVATIONS  # torch; options are read without it

    activation = _activation(hints.activation, params, record, path)
    image_shape = _image_shape(hints.image_shape, params, record, path)
    eps = _eps(hints.normalizer_eps, record)
    if activation is None or image_shape is None:
        wanted = {
            "activation": f"--activation ({', '.join(sorted(ACTIVATIONS))})" if activation is None else None,
            "image shape": "--image-shape ROWSxCOLUMNS" if image_shape is None else None,
        }
        names = " and ".join(name for name, option in wanted.items() if option)
        raise MissingParametersError(
            f"{path} does not say its {names} and there is no params/agent.yaml beside it that does: "
            f"give {' and '.join(filter(None, wanted.values()))}"
        )
    return NetworkParameters(activation, image_shape, eps)


def _agree(what: str, candidates: list[tuple[str, Any]], path: Path) -> Any:
    """Return the value that all sources which have one agree on, None if none has."""
    known = [(source, value) for source, value in candidates if value is not None]
    for source, value in known[1:]:
        if value != known[0][1]:
            raise OptionError(
                f"{what} of {path}: {known[0][0]} says {known[0][1]}, but {source} says {value}; "
                "leave out the wrong one"
            )
    return known[0][1] if known else None


def _activation(option: str | None, params: "RunParams", record: dict[str, Any], path: Path) -> str | None:
    from deploy_kit.policy.network import ACTIVATIONS

    # A critic's activation may differ: nothing of the critic ships.
    candidates = [
        ("--activation", option),
        ("the file", record.get("activation")),
        *(
            (f"params/agent.yaml ({group}.activation)", params.lookup("agent", group, "activation"))
            for group in ("policy", "actor")
        ),
    ]
    names = ", ".join(sorted(ACTIVATIONS))
    known: list[tuple[str, Any]] = []
    for source, value in candidates:
        if value is None:
            continue
        if not isinstance(value, str) or value.lower() not in ACTIVATIONS:
            raise OptionError(f"activation {value!r} of {path}, from {source}, is not supported; known are {names}")
        known.append((source, value.lower()))
    activation: str | None = _agree("activation", known, path)
    return activation


def _image_shape(
    option: tuple[int, int] | None, params: "RunParams", record: dict[str, Any], path: Path
) -> tuple[int, int] | None:
    sources = [
        ("--image-shape", option),
        ("the file", record.get("image_shape")),
        *(
            (f"params/agent.yaml ({group}.{key})", params.lookup("agent", group, key))
            for group in ("policy", "actor")
            for key in ("img_res", "image_shape")
        ),
    ]
    candidates = [(source, None if value is None else _checked_shape(value, source, path)) for source, value in sources]
    shape: tuple[int, int] | None = _agree("image shape", candidates, path)
    return shape


def _checked_shape(value: Any, source: str, path: Path) -> tuple[int, int]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        rows, columns = value
        if all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in value):
            return rows, columns
    raise OptionError(
        f"image shape {value!r} of {path}, from {source}, is not two positive whole numbers (rows, columns)"
    )


def _eps(option: float | None, record: dict[str, Any]) -> float:
    # The option wins: the recorded epsilon is an assumption too, since training never stores it.
    eps = option if option is not None else record.get("normalizer_eps")
    if eps is None:
        return DEFAULT_NORMALIZER_EPS
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not math.isfinite(eps) or eps < 0:
        raise OptionError(f"--normalizer-eps {eps!r} is not a finite number of at least 0")
    return float(eps)


def require_promised_normalizer(config: "NetworkConfig", params: "RunParams", path: Path) -> None:
    """Raise CheckpointError if the run trained with an observation normaliser that the checkpoint lacks."""
    switches = (("empirical_normalization",), ("policy", "actor_obs_normalization"), ("actor", "obs_normalization"))
    for keys in switches:
        if config.normalizer_eps is None and params.lookup("agent", *keys) is True:
            raise CheckpointError(
                f"{path} holds no observation normaliser, but its params/agent.yaml trained with one "
                f"({'.'.join(keys)}): "
                "the policy would fly on unnormalised observations; give the complete checkpoint"
            )
