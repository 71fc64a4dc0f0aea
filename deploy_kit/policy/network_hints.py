"""What weights cannot tell: activation, image shape and the normaliser's epsilon, from the run or from options."""

import math
from pathlib import Path
from typing import Any

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.network import ACTIVATIONS, NetworkConfig
from deploy_kit.policy.run.params import RunParams

DEFAULT_NORMALIZER_EPS = 1e-2
"""Epsilon of rsl_rl's EmpiricalNormalization; checkpoints do not store it."""


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


def resolve_activation(option: str | None, params: RunParams, record: dict[str, Any], path: Path) -> str:
    """Return the activation's name.

    Args:
        option: what the caller says.
        params: what the run says.
        record: what deploy-kit's record in the file says.
        path: the checkpoint, for messages.

    Raises:
        OptionError: if nobody says, two contradict each other, or the activation is not supported.
    """
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
    activation = _agree("activation", known, path)
    if activation is None:
        raise OptionError(
            f"{path} does not say its activation and there is no params/agent.yaml beside it that does: "
            f"give --activation ({names})"
        )
    return str(activation)


def resolve_image_shape(
    option: tuple[int, int] | None, params: RunParams, record: dict[str, Any], path: Path
) -> tuple[int, int]:
    """Return (rows, columns) of the depth image; arguments and errors as `resolve_activation`."""
    sources = [
        ("--image-shape", option),
        ("the file", record.get("image_shape")),
        *(
            (f"params/agent.yaml ({group}.{key})", params.lookup("agent", group, key))
            for group in ("policy", "actor")
            for key in ("img_res", "image_shape")
        ),
    ]
    candidates = [(source, None if value is None else _image_shape(value, source, path)) for source, value in sources]
    shape: tuple[int, int] | None = _agree("image shape", candidates, path)
    if shape is None:
        raise OptionError(
            f"{path} does not say its image shape and there is no params/agent.yaml beside it that does: "
            "give --image-shape ROWSxCOLUMNS"
        )
    return shape


def _image_shape(value: Any, source: str, path: Path) -> tuple[int, int]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        rows, columns = value
        if all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in value):
            return rows, columns
    raise OptionError(
        f"image shape {value!r} of {path}, from {source}, is not two positive whole numbers (rows, columns)"
    )


def resolve_eps(option: float | None, record: dict[str, Any]) -> float:
    """Let the option win: the recorded epsilon is an assumption too, since training never stores it."""
    eps = option if option is not None else record.get("normalizer_eps")
    if eps is None:
        return DEFAULT_NORMALIZER_EPS
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not math.isfinite(eps) or eps < 0:
        raise OptionError(f"--normalizer-eps {eps!r} is not a finite number of at least 0")
    return float(eps)


def require_promised_normalizer(config: NetworkConfig, params: RunParams, path: Path) -> None:
    """Raise CheckpointError if the run trained with an observation normaliser that the checkpoint lacks."""
    switches = (("empirical_normalization",), ("policy", "actor_obs_normalization"), ("actor", "obs_normalization"))
    for keys in switches:
        if config.normalizer_eps is None and params.lookup("agent", *keys) is True:
            raise CheckpointError(
                f"{path} holds no observation normaliser, but its params/agent.yaml trained with one "
                f"({'.'.join(keys)}): "
                "the policy would fly on unnormalised observations; give the complete checkpoint"
            )
