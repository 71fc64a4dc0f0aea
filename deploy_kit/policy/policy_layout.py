"""Where rsl_rl's checkpoints keep a policy's tensors, by the names of rsl_rl 5's models.

Facts, read from rsl_rl's sources:

- 2.x saves ``model_state_dict`` (``actor.*``, ``memory_a.*``, ``std``) and the normaliser as ``obs_norm_state_dict``;
- 3.x keeps the normaliser (``actor_obs_normalizer.*``) and encoders (``actor_cnns.*``) in ``model_state_dict``;
- their distillation runs save the student there too (``student.*``, ``memory_s.*``, ``student_obs_normalizer.*``);
- 4.x and 5.x save ``actor_state_dict``, or ``student_state_dict`` from a distillation, with the models' own names; 4.x
  keeps ``std`` beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor

from deploy_kit.errors import CheckpointError
from deploy_kit.text import printable


class PolicyFormat(StrEnum):
    """Layouts of checkpoints of any policy."""

    JOINT = "rsl_rl-joint"
    JOINT_STUDENT = "rsl_rl-joint-distillation"
    SPLIT = "rsl_rl-split"
    STUDENT = "rsl_rl-distillation"
    SAFETENSORS = "safetensors"
    EXTENSION = "extension"


@dataclass(frozen=True)
class PolicyLayout:
    """How a layout names things.

    Attributes:
        format: which one.
        section: entry that holds the policy's tensors.
        mlp: what the layers of ``mlp`` are called.
        agent: where ``agent.yaml`` describes the policy, the first that is there.
        group_set: where ``obs_groups`` of ``agent.yaml`` lists its observation groups.
        renamed: beginnings of names in the file, and what they are in rsl_rl 5's models.
        left: beginnings of names that belong to other networks.
    """

    format: PolicyFormat
    section: str
    mlp: str
    agent: tuple[str, ...]
    group_set: str
    renamed: Mapping[str, str]
    left: tuple[str, ...] = ()


_NOISE = {"std": "distribution.std_param", "log_std": "distribution.log_std_param"}

_OWN = {**{name: name for name in ("mlp.", "rnn.", "cnns.", "obs_normalizer.", "distribution.")}, **_NOISE}

LAYOUTS: dict[PolicyFormat, PolicyLayout] = {
    layout.format: layout
    for layout in (
        PolicyLayout(
            PolicyFormat.JOINT,
            "model_state_dict",
            "actor",
            ("policy",),
            "policy",
            {
                "actor.": "mlp.",
                "memory_a.": "rnn.",
                "actor_cnns.": "cnns.",
                "actor_obs_normalizer.": "obs_normalizer.",
                **_NOISE,
            },
            ("critic.", "memory_c.", "critic_cnns.", "critic_obs_normalizer."),
        ),
        PolicyLayout(
            PolicyFormat.JOINT_STUDENT,
            "model_state_dict",
            "student",
            ("policy",),
            "policy",
            {"student.": "mlp.", "memory_s.": "rnn.", "student_obs_normalizer.": "obs_normalizer.", **_NOISE},
            ("teacher.", "memory_t.", "teacher_obs_normalizer."),
        ),
        PolicyLayout(PolicyFormat.SPLIT, "actor_state_dict", "mlp", ("actor", "policy"), "actor", _OWN),
        PolicyLayout(PolicyFormat.STUDENT, "student_state_dict", "mlp", ("student", "policy"), "student", _OWN),
        PolicyLayout(PolicyFormat.SAFETENSORS, "tensors", "mlp", (), "policy", _OWN, ("head.",)),
    )
}

_NORMALIZER_SECTION = "obs_norm_state_dict"


def holds_safetensors(entries: Mapping[str, Any]) -> bool:
    """Return whether entries are those of a safetensors file."""
    return set(entries) == {"tensors", "metadata"}


def detect_layout(entries: Mapping[str, Any], path: object) -> PolicyLayout:
    """Return the layout of a checkpoint's entries.

    Raises:
        CheckpointError: it is none of rsl_rl's; the message names what was found.
    """
    if holds_safetensors(entries):
        return LAYOUTS[PolicyFormat.SAFETENSORS]
    for found in (PolicyFormat.STUDENT, PolicyFormat.SPLIT):
        if LAYOUTS[found].section in entries:
            return LAYOUTS[found]
    joint = entries.get("model_state_dict")
    if isinstance(joint, Mapping):
        student = any(str(name).startswith("student.") for name in joint)
        return LAYOUTS[PolicyFormat.JOINT_STUDENT if student else PolicyFormat.JOINT]
    found_names = ", ".join(sorted(map(printable, entries))[:8]) or "nothing"
    if entries and all(isinstance(value, Tensor) for value in entries.values()):
        joint = any(str(name).startswith(("actor.", "student.")) for name in entries)
        entry = "model_state_dict" if joint else "actor_state_dict"
        raise CheckpointError(
            f"{path} is a bare state dict ({found_names}), and rsl_rl keeps a policy's as an entry: save it again as "
            f'torch.save({{"{entry}": state_dict}}, FILE); a network of your own: see docs/policies.md'
        )
    raise CheckpointError(
        f"{path} has none of rsl_rl's entries (model_state_dict, actor_state_dict or student_state_dict); found: "
        f"{found_names}; see docs/policies.md for the supported files, and for a network of your own"
    )


def locate_policy(entries: Mapping[str, Any], layout: PolicyLayout, path: object) -> dict[str, tuple[str, str]]:
    """Return where each tensor of the policy lies, (entry, name), by its name in rsl_rl 5's models.

    Raises:
        CheckpointError: an entry is no state dict, or holds a tensor that no model of rsl_rl has, named as in the file.
    """
    located: dict[str, tuple[str, str]] = {}
    sections = {layout.section: layout.renamed}
    if layout.section == "model_state_dict" and _NORMALIZER_SECTION in entries:
        sections[_NORMALIZER_SECTION] = {"": "obs_normalizer."}
    foreign: list[str] = []
    for section, renamed in sections.items():
        tensors = entries[section]
        if not isinstance(tensors, Mapping):
            raise CheckpointError(f"{path}: its entry {section} is no state dict; save the whole checkpoint")
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise CheckpointError(f"{path}: {section} holds {printable(name)}, which is no tensor")
            if layout.section == section and name.startswith(layout.left):
                continue
            ours = _renamed(name, renamed)
            if ours is None:
                foreign.append(f"{section}.{printable(name)} {tuple(tensor.shape)}")
            elif ours in located:
                raise CheckpointError(f"{path} holds the normaliser twice: in {section} and in {located[ours][0]}")
            else:
                located[ours] = (section, name)
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise CheckpointError(
            f"{path} holds another network than rsl_rl's: {', '.join(foreign[:3])}{more} belong to no MLPModel, "
            "CNNModel or RNNModel; docs/policies.md says how to bring a network of your own"
        )
    return located


def _renamed(name: str, renamed: Mapping[str, str]) -> str | None:
    for theirs, ours in renamed.items():
        if name == theirs or (name.startswith(theirs) and (theirs == "" or theirs.endswith("."))):
            return ours + name[len(theirs) :]
    return None
