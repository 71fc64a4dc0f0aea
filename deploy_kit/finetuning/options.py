"""Options of `finetune`."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy_kit.errors import OptionError
from deploy_kit.policy.network_hints import NetworkHints

if TYPE_CHECKING:
    import torch

    from deploy_kit.finetuning.learners.attack import Attack
    from deploy_kit.gate.threshold import ThresholdRule

ADAM, LBFGS = "adam", "lbfgs"
"""Solvers."""

STEPS, EVENTS = "steps", "events"
"""Objectives."""

NORMS = ("linf", "l2")
"""Norms of the perturbation."""

LBFGS_ROWS = 100_000
"""Up to so many training rows the optimum is found in a minute or two; Adam's defaults are made for more."""


@dataclass(frozen=True)
class AdamOptions:
    """How Adam trains; made for a million rows of each class.

    Attributes:
        epochs: passes over the training rows.
        batch_size: rows a step.
        lr: learning rate.
    """

    epochs: int = 5
    batch_size: int = 256
    lr: float = 3e-4


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of `finetune`.

    Attributes:
        feature_files: feature file or files, collected with this policy; a name may hold ``*`` and ``?``.
        checkpoint: checkpoint whose gate head is trained.
        output: folder for checkpoints, metrics, plots, report and logs.
        epochs: passes of Adam over the training rows; None, as in the next two, for the default of `AdamOptions`.
        batch_size: rows a step of Adam.
        lr: Adam's learning rate.
        pgd_steps: gradient steps of the perturbation, 0 for none.
        epsilon: largest change of a feature ("linf"), or of the feature vector's length ("l2").
        alpha: length of one step.
        norm: "linf" or "l2".
        masterracing_compatible: cut perturbed features to [0, 1] as MasterRacing does; slow, to compare.
        solver: "adam", or "lbfgs" for the optimum of the robust loss with a certificate; None to choose by the number
            of training rows, see `choose_solver`.
        objective: "steps" trains every step alike at equal classes; "events" leaves out steps that lead to a passage
            within the detector's tolerance, and weights the others to flight's share of passages. L-BFGS alone.
        memory: bytes that the process may take; rows are streamed if they do not fit. None for half of what is free.
        threshold_rule: see `ThresholdRule.parse`.
        prior_correction: make the probability right for flight's share of positives instead of training's.
        temperature: divide the log-likelihood ratio by a temperature fitted on validation rows.
        compare: train a second head as MasterRacing does, for the comparison.
        patience: stop after so many epochs without a better validation AUROC and keep the best one; None for never.
        new_head: give a policy that has no head one, of zeros before it is trained.
        resume: go on with an interrupted finetuning in `output`.
        seconds_per_step: the policy's period, s, where the feature files do not say; if None the run's, else the
            racing task's for its policies.
        seed: seed of the order of the rows and of the resampling.
        device: torch device.
        overwrite: replace the results of an earlier finetuning in the folder.
        hints: what the checkpoint's weights do not tell.
    """

    feature_files: Path | tuple[Path, ...]
    checkpoint: Path
    output: Path = Path("outputs/finetune")
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    pgd_steps: int = 3
    epsilon: float = 0.1
    alpha: float = 0.01
    norm: str = "linf"
    masterracing_compatible: bool = False
    solver: str | None = None
    objective: str = STEPS
    memory: int | None = None
    threshold_rule: str = "f1"
    prior_correction: bool = True
    temperature: bool = True
    compare: bool = False
    patience: int | None = None
    new_head: bool = False
    resume: bool = False
    seconds_per_step: float | None = None
    seed: int = 0
    device: str = "cpu"
    overwrite: bool = False
    hints: NetworkHints = field(default_factory=NetworkHints)

    @property
    def adam(self) -> AdamOptions:
        """How Adam trains, if it does."""
        given: dict[str, Any] = {name: getattr(self, name) for name in self._adam_given()}
        return AdamOptions(**given)

    @property
    def attack(self) -> "Attack":
        """The perturbation of the training."""
        from deploy_kit.finetuning.learners.attack import Attack, Norm

        return Attack(self.pgd_steps, self.epsilon, self.alpha, Norm(self.norm), self.masterracing_compatible)

    @property
    def rule(self) -> "ThresholdRule":
        """The threshold's rule."""
        from deploy_kit.gate.threshold import ThresholdRule

        return ThresholdRule.parse(self.threshold_rule)

    def paths(self) -> list[Path]:
        """Return the feature files, patterns resolved.

        Raises:
            OptionError: a pattern matches nothing, or no file is given.
        """
        return feature_paths(self.feature_files)

    def check(self) -> "torch.device":
        """Return the device after checking the options.

        Raises:
            OptionError: one makes no sense, two contradict each other, or the device is not there.
        """
        from deploy_kit.torch_device import require_device

        for name, low in (("epochs", 1), ("batch_size", 1), ("pgd_steps", 0), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise OptionError(f"--{name} {value} is below {low}")
        for name in ("lr", "alpha", "epsilon", "seconds_per_step"):
            value = getattr(self, name)
            if value is None:
                continue
            if not math.isfinite(value) or value < 0 or (name in ("lr", "seconds_per_step") and value == 0):
                raise OptionError(f"--{name} {value} is not a positive number")
        for name, known in (("norm", NORMS), ("solver", (ADAM, LBFGS, None)), ("objective", (STEPS, EVENTS))):
            if getattr(self, name) not in known:
                raise OptionError(f"--{name} {getattr(self, name)!r} is not one of {', '.join(filter(None, known))}")
        self._check_combinations()
        _ = self.rule
        return require_device(self.device)

    def choose_solver(self, rows: int, streamed: bool) -> tuple[str, str]:
        """Return the solver for a number of training rows, and why it is this one.

        What is given for Adam alone chooses Adam. Otherwise few rows, in memory, are trained to the optimum.

        Args:
            rows: number of training rows.
            streamed: whether they are read from the files in every pass.

        Raises:
            OptionError: the objective needs another solver.
        """
        solver, reason = self._choose_solver(rows, streamed)
        if self.objective == EVENTS and solver != LBFGS:
            raise OptionError(f"--objective events trains with L-BFGS, and {reason}; give --solver lbfgs")
        return solver, reason

    def _choose_solver(self, rows: int, streamed: bool) -> tuple[str, str]:
        if self.solver is not None:
            return self.solver, f"--solver {self.solver} is given"
        for_adam = [*self._adam_given(), *self._adam_alone()]
        if for_adam:
            return ADAM, f"{_option(for_adam[0])} is given, which is Adam's"
        if streamed:
            return ADAM, "the training rows do not fit into memory"
        if rows > LBFGS_ROWS:
            return ADAM, f"{rows:,} training rows are more than {LBFGS_ROWS:,}"
        return LBFGS, f"{rows:,} training rows are at most {LBFGS_ROWS:,}, for which the optimum is found at once"

    def _adam_given(self) -> list[str]:
        return [field.name for field in fields(AdamOptions) if getattr(self, field.name) is not None]

    def _adam_alone(self) -> list[str]:
        """Return the options that are given and that only Adam knows, besides those of `AdamOptions`."""
        names = ("resume", "patience", "masterracing_compatible")
        return [*(name for name in names if getattr(self, name)), *(["device"] if self.device != "cpu" else [])]

    def _check_combinations(self) -> None:
        if self.solver == LBFGS:
            if self.masterracing_compatible:
                raise OptionError(
                    "--solver lbfgs needs the closed form, and --masterracing-compatible has none; leave one out"
                )
            if self.resume or self.patience:
                raise OptionError("--solver lbfgs has no epochs; leave out --resume and --patience")
            if (given := self._adam_given()) and not self.compare:
                names = ", ".join(map(_option, given))
                raise OptionError(f"--solver lbfgs has no use for {names}, which Adam takes; leave one out")
        if self.resume and self.overwrite:
            raise OptionError("--resume goes on with what --overwrite would replace; leave one out")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def feature_paths(given: Path | tuple[Path, ...]) -> list[Path]:
    """Return the feature files, patterns resolved.

    Raises:
        OptionError: a pattern matches nothing, or no file is given.
    """
    found: list[Path] = []
    for path in (given,) if isinstance(given, Path) else given:
        if not path.exists() and any(sign in path.name for sign in "*?["):
            matches = sorted(path.parent.glob(path.name))
            if not matches:
                raise OptionError(f"--feature-file {path} matches no file")
            found += matches
        else:
            found.append(path)
    if not found:
        raise OptionError("--feature-file is missing; give the feature file that collect wrote")
    return found
