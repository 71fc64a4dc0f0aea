"""Labels by a function of the user's own: environment in, (num_envs,) bool out, judged before any automatic reset."""

import ast
import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import Tensor

from deploy_kit.errors import TaskError
from deploy_kit.text import one_line

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

LABEL_GROUP = "auxiliary"
"""Observation group that holds the label of the step that led to an observation."""

RESET_METHODS = ("_reset_idx", "reset_idx")
"""Methods by which Isaac Lab's environments, and others in their manner, reset those whose episodes ended."""

SEES_BEFORE_RESETS = "labels_before_resets"
"""Attribute of an environment whose state stays as it was before resets, wherever its label functions look."""


@dataclass(frozen=True)
class LabelFunction:
    """A function that judges labels, named for good; `load` imports it.

    Attributes:
        name: ``module:function``.
        source_sha256: hash of the source file that it stands in.
        summary: first line of its docstring, empty without one.
    """

    name: str
    source_sha256: str
    summary: str

    @property
    def rule(self) -> str:
        """What a positive label means, in words: two functions, or two versions of one, have different rules."""
        said = f": {self.summary}" if self.summary else ""
        return f"{self.name} (source sha256 {self.source_sha256}), of the state after the step, before any reset{said}"

    def load(self) -> Callable[[Any], Any]:
        """Import the function.

        Raises:
            TaskError: its file has changed since it was named.
        """
        module, _, attribute = self.name.partition(":")
        function: Callable[[Any], Any] = getattr(importlib.import_module(module), attribute)
        if find_label(self.name).source_sha256 != self.source_sha256:
            raise TaskError(f"--label {self.name}: its source file has changed meanwhile; begin again")
        return function


def find_label(name: str) -> LabelFunction:
    """Return the label function that ``module:function`` names, without importing its module.

    A module may import what must not be imported before Isaac Lab is launched.

    Raises:
        TaskError: there is none, or its source cannot be read.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise TaskError(f"--label {name!r} names no function: give module:function")
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError) as error:
        raise TaskError(f"--label {name}: {error}; is it on PYTHONPATH?") from error
    if spec is None:
        raise TaskError(f"--label {name}: module {module!r} is not found; is it on PYTHONPATH?")
    try:
        source = Path(spec.origin or "").read_bytes()
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError) as error:
        raise TaskError(f"--label {name}: {spec.origin} cannot be read as Python source ({one_line(error)})") from error
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == attribute]
    if not found:
        raise TaskError(f"--label {name}: {spec.origin} defines no function {attribute!r}")
    summary = (ast.get_docstring(found[-1]) or "").partition("\n")[0]
    return LabelFunction(name, hashlib.sha256(source).hexdigest(), summary)


def with_labels(env: "VecEnv", label: LabelFunction) -> "VecEnv":
    """Return an environment whose group `auxiliary` is what a label function says.

    Args:
        env: the environment; one of Isaac Lab's gives the function what it wraps (`unwrapped`), any other gives itself.
        label: judged after each step. Where the environment resets within the step, it is judged just before that.

    Raises:
        TaskError: nothing tells when the environment resets.
    """
    from rsl_rl.env import VecEnv

    class LabelledEnv(VecEnv):  # type: ignore[misc]  # rsl_rl carries no types
        """Everything else is the environment's own."""

        def __init__(self) -> None:
            self._env, self._judge = env, _Judge(env, label)
            self._label = torch.zeros(env.num_envs, 1, device=env.device)

        def __getattr__(self, name: str) -> Any:
            return getattr(env, name)

        def get_observations(self) -> TensorDict:
            return self._with_label(env.get_observations())

        def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
            self._judge.begin()
            observations, rewards, dones, extras = env.step(actions)
            self._label = self._judge.label(dones)[:, None].to(env.device, torch.float32)
            return self._with_label(observations), rewards, dones, extras

        def _with_label(self, observations: TensorDict) -> TensorDict:
            groups = {**dict(observations.items()), LABEL_GROUP: self._label}
            return TensorDict(groups, batch_size=observations.batch_size)

    return LabelledEnv()


class _Judge:
    """Asks the function once a step, at the right moment."""

    def __init__(self, env: "VecEnv", label: LabelFunction) -> None:
        inner = getattr(env, "unwrapped", env)
        self._subject, self._name, self._num_envs = inner, label.name, env.num_envs
        self._function = label.load()
        self._found: Tensor | None = None
        self._within = False
        names = [name for name in RESET_METHODS if callable(getattr(inner, name, None))]
        self._watched = bool(names)
        if names:
            self._watch(names[0])
        elif not getattr(inner, SEES_BEFORE_RESETS, False):
            raise TaskError(
                f"--label {label.name}: nothing tells when a {type(inner).__name__} resets, so the label might be "
                f"judged after it; let it reset by a method {RESET_METHODS[0]}(env_ids) within step, or keep what the "
                f"function reads as it was before resets and set {SEES_BEFORE_RESETS} = True"
            )

    def _watch(self, name: str) -> None:
        reset = getattr(self._subject, name)

        def judged_before(*args: Any, **kwargs: Any) -> Any:
            if self._within and self._found is None:
                self._found = self._ask()
            return reset(*args, **kwargs)

        setattr(self._subject, name, judged_before)

    def begin(self) -> None:
        """Begin a step."""
        self._found, self._within = None, True

    def label(self, dones: Tensor) -> Tensor:
        """Return the step's label (num_envs,).

        Raises:
            TaskError: the environment reports other ends of episodes than it resets for.
        """
        self._within = False
        if self._watched and (self._found is not None) != bool(dones.any()):
            what = "resets, and no episode ends" if self._found is not None else "an episode ends, and nothing resets"
            raise TaskError(
                f"--label {self._name}: within a step {what}, so the label might be judged at the wrong time; reset "
                "within the step in which an episode ends"
            )
        return self._ask() if self._found is None else self._found

    def _ask(self) -> Tensor:
        name = self._name
        try:
            answer = torch.as_tensor(self._function(self._subject))
        # The user's function may raise anything.
        except Exception as error:
            raise TaskError(f"--label {name} raised {type(error).__name__}: {one_line(error)}") from error
        if answer.dtype is not torch.bool or tuple(answer.shape) != (self._num_envs,):
            raise TaskError(
                f"--label {name} gave {answer.dtype} of shape {tuple(answer.shape)}, not bool of shape "
                f"({self._num_envs},)"
            )
        # It may be a view of what the reset changes.
        return answer.clone()
