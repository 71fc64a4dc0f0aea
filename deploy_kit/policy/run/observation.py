"""What the numbers of the policy's observation mean: from the run's ``params/env.yaml``, else from the named task."""

from dataclasses import dataclass
from typing import Any

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.run.camera import CameraSpec, resolve_camera
from deploy_kit.policy.run.env_file import ENV_FILE
from deploy_kit.policy.run.env_terms import DEPTH_FUNCTIONS, EnvTerm, read_terms
from deploy_kit.policy.run.params import RunParams
from deploy_kit.policy.run.state_term import StateTerm
from deploy_kit.policy.run.vehicle import named_task
from deploy_kit.task.interface import ObservationLayout, ObservationTerm
from deploy_kit.task.racing import TASK_ID

IMAGE_PLANE = "distance to the image plane along the optical axis, m"
"""What a pixel measures with Isaac Lab's ``distance_to_image_plane``."""

_MEASURES = {
    "distance_to_image_plane": IMAGE_PLANE,
    "depth": IMAGE_PLANE,
    "distance_to_camera": "distance to the optical centre, m",
}


@dataclass(frozen=True)
class DepthMeasure:
    """What a pixel of the depth image measures; None where it is not known.

    Attributes:
        measure: measure in words, in metres.
        source: where it comes from.
    """

    measure: str | None
    source: str | None


@dataclass(frozen=True)
class RunObservation:
    """The observation as the run, or the task, describes it; the camera is None where neither says."""

    terms: tuple[StateTerm, ...]
    depth: DepthMeasure
    camera: CameraSpec | None


def resolve_observation(params: RunParams, task: str | None, layout: ObservationLayout) -> RunObservation:
    """Return what the observation's numbers mean.

    Args:
        params: the run's parameters.
        task: task id, as given with ``--task``; one that is not known by name adds nothing.
        layout: sizes of state and image, as the weights tell them.

    Raises:
        CheckpointError: the run's terms do not fit the policy's sizes or cannot be understood.
        OptionError: run and task contradict each other.
    """
    listed = [] if params.env is None else read_terms(params.env)
    known, source = named_task(params, task)
    of_task = _of_racing_task(layout, source) if known == TASK_ID else None
    camera = resolve_camera(params, task, layout)
    if not listed:
        terms, depth = of_task or (_unknown(0, layout.state_size, None, None), DepthMeasure(None, None))
        return RunObservation(terms, depth, camera)
    found = _of_env(listed[:-1], layout), _depth(_image(listed, layout))
    if of_task is not None and not _agree(found, of_task):
        raise OptionError(
            f"{ENV_FILE} lists the terms {', '.join(term.name for term in listed)}, which are not those of {source} "
            f"{known}; leave out --task"
        )
    return RunObservation(*found, camera)


def _image(listed: list[EnvTerm], layout: ObservationLayout) -> EnvTerm:
    """Return the image's term, which must be the last one: the policy takes the last numbers for the image."""
    images = [term for term in listed if term.function in DEPTH_FUNCTIONS or term.data_type in _MEASURES]
    if images and images != [listed[-1]]:
        names = ", ".join(term.name for term in images)
        raise CheckpointError(
            f"{images[0].where}: the depth image must be one term, the last of its group, for this policy takes the "
            f"last {layout.image_size} numbers as its image; found as images: {names}"
        )
    return listed[-1]


def _depth(term: EnvTerm) -> DepthMeasure:
    measure = None if term.data_type is None else _MEASURES.get(term.data_type)
    return DepthMeasure(measure, None if measure is None else term.where)


def _of_env(listed: list[EnvTerm], layout: ObservationLayout) -> tuple[StateTerm, ...]:
    """Return the state's terms; those between two of unknown size have no known place and become one slice."""
    sizes = [term.size for term in listed]
    unknown = [number for number, size in enumerate(sizes) if size is None]
    known = sum(size for size in sizes if size is not None)
    if known > layout.state_size or (not unknown and known != layout.state_size):
        names = ", ".join(f"{term.name} {'?' if term.size is None else term.size}" for term in listed)
        raise CheckpointError(
            f"{ENV_FILE}: the terms before the image ({names}) make {known} numbers, but this policy's state has "
            f"{layout.state_size}; give the checkpoint of this run"
        )
    before = listed[: unknown[0]] if unknown else listed
    after = listed[unknown[-1] + 1 :] if unknown else []
    terms: list[StateTerm] = []
    for term in before:
        terms += _known(term, terms[-1].stop if terms else 0)
    if unknown:
        start = terms[-1].stop if terms else 0
        middle = listed[unknown[0] : unknown[-1] + 1]
        stop = layout.state_size - sum(term.size or 0 for term in after)
        terms += _unknown(start, stop, " + ".join(term.name for term in middle), _why_unknown(middle))
        for term in after:
            terms += _known(term, terms[-1].stop if terms else start)
    return tuple(terms)


def _why_unknown(terms: list[EnvTerm]) -> str:
    reasons = [f"{term.name} has {term.obscured_by}" if term.obscured_by else term.function for term in terms]
    return f"{ENV_FILE} lists it; what it holds is not known to deploy-kit ({', '.join(reasons)})"


def _known(term: EnvTerm, start: int) -> list[StateTerm]:
    assert term.quantities is not None
    terms: list[StateTerm] = []
    for quantity in term.quantities:
        first = sum(item.stop - item.start for item in terms)
        scale = term.scale[first : first + quantity.size] if isinstance(term.scale, tuple) else term.scale
        terms.append(
            _state_term(
                quantity,
                start + first,
                source=f"{term.where} ({term.function.rpartition(':')[2]})",
                clip=term.clip,
                scale=(scale,) * quantity.size if isinstance(scale, float) else scale,
            )
        )
    return terms


def _state_term(quantity: ObservationTerm, start: int, source: str, **changes: Any) -> StateTerm:
    settings = {"clip": None, "scale": None, **changes}
    return StateTerm(
        name=quantity.name,
        start=start,
        stop=start + quantity.size,
        quantity=quantity.name,
        unit=quantity.unit,
        frame=quantity.frame,
        description=quantity.description,
        low=quantity.low,
        high=quantity.high,
        range_source=quantity.range_source,
        source=source,
        **settings,
    )


def _unknown(start: int, stop: int, name: str | None, description: str | None) -> tuple[StateTerm, ...]:
    if stop <= start:
        return ()
    nothing = dict.fromkeys(("quantity", "unit", "frame", "clip", "scale", "low", "high", "range_source"))
    source = None if name is None else ENV_FILE
    return (StateTerm(name or "state", start, stop, description=description, source=source, **nothing),)


_Meaning = tuple[tuple[StateTerm, ...], DepthMeasure]


def _of_racing_task(layout: ObservationLayout, source: str) -> _Meaning:
    if not layout.terms:
        raise OptionError(
            f"task {TASK_ID} has {ObservationLayout().state_size} state numbers, this policy {layout.state_size}; "
            "leave out --task"
        )
    terms = tuple(_state_term(term, term.start, source=source) for term in layout.terms)
    return terms, DepthMeasure(IMAGE_PLANE, source)


def _agree(found: _Meaning, of_task: _Meaning) -> bool:
    (ours, our_depth), (theirs, their_depth) = found, of_task
    return our_depth.measure == their_depth.measure and [
        (term.quantity, term.start, term.stop, term.clip, term.scale) for term in ours
    ] == [(term.quantity, term.start, term.stop, term.clip, term.scale) for term in theirs]
