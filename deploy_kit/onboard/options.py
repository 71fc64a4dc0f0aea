"""How a bundle is flown."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .faults import Fault, OnboardFault
from .verification import MODELS, Runtime

MAX_TOLERANCE = 1e-2
"""TF32 arithmetic is off by up to 4e-3; what is off by more than this is another policy."""


MAX_THREADS = 1024

LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
"""Names of the graph optimisation levels in onnxruntime."""

ENGINES = tuple(MODELS)

NARROW_TOLERANCES = {"onnxruntime-fp16": 1e-2, "onnxruntime-int8": 0.15, "cpp-fp16": 1e-2, "cpp-int8": 0.15}
"""Of golden samples, for what is narrow: as far as the profiles that judge it let outputs be off."""

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

SAME_ARITHMETIC = ("device_id", "trt_builder_optimization_level", "trt_max_workspace_size")
"""Options of TensorRT that leave float32 float32 and load no code; `verify` runs it without any."""


@dataclass(frozen=True)
class OnboardOptions:
    """How to run.

    Attributes:
        engine: what computes the network: "onnxruntime", or "cpp" for the bundle's C++ header, built on this computer;
            "onnxruntime-fp16", "onnxruntime-int8", "cpp-fp16" and "cpp-int8" for the bundle's variants of the graph and
            headers with narrow weights, whose outputs differ from the graph's.
        cpp_cache: folder of such builds; `~/.cache/deploy-kit/cpp` if None.
        provider: onnxruntime's execution provider; another one running instead is a fault.
        provider_options: options of that provider, as onnxruntime takes them; of TensorRT's only `SAME_ARITHMETIC`,
            unless `allow_unverified`.
        engine_cache: folder in which TensorRT's engines are kept between starts; None builds them at each.
        threads: threads of one inference.
        level: graph optimisation: "disabled", "basic", "extended" or "all".
        tf32: whether CUDA may round to TensorFloat-32; it is switched off otherwise.
        trust: file of the public key (PEM, Ed25519) whose signature the bundle must bear; None takes any bundle.
        allow_unverified: fly a runtime that no verification names, and a bundle whose verification failed.
        tolerance: largest error of a golden sample, absolute (times the action scale for commands) plus relative; at
            most `MAX_TOLERANCE`. What is narrow has `golden_tolerance` for the bundle's samples; this one holds for
            the samples of a narrow header's own.
        max_state_age_s: oldest state that is accepted; two policy periods if None.
        max_depth_age_s: oldest image that is accepted; one camera period plus one policy period if None.
        min_step_s: shortest time between two steps; half a policy period if None.
        max_step_s: longest time between two steps; two policy periods if None.
        max_blind_s: longest time for which no pixel of the images may have a return, by the policy's period; None for
            any.
        range_margin: share of its range by which a state may leave it.
        depth_in_millimetres: take depth as unsigned 16-bit millimetres instead of metres.
        zero_is_no_return: treat a depth of exactly 0 as no return, as RealSense cameras report it.
        nan_is_no_return: treat a depth of NaN as no return, as REP 118 says for drivers that do not know.
        joint_order: names of the robot's joints in the order in which it gives and takes them, for contracts that name
            joints; joints that the policy does not know are allowed among them.

    Raises:
        OnboardFault: an option makes no sense.
    """

    engine: str = "onnxruntime"
    cpp_cache: str | None = None
    provider: str = "CPUExecutionProvider"
    provider_options: dict[str, str] = field(default_factory=dict)
    engine_cache: str | None = None
    threads: int = 1
    level: str = "all"
    tf32: bool = False
    trust: str | os.PathLike[str] | None = None
    allow_unverified: bool = False
    tolerance: float = 1e-5
    max_state_age_s: float | None = None
    max_depth_age_s: float | None = None
    min_step_s: float | None = None
    max_step_s: float | None = None
    max_blind_s: float | None = 0.5
    range_margin: float = 0.05
    depth_in_millimetres: bool = False
    zero_is_no_return: bool = False
    nan_is_no_return: bool = False
    joint_order: Sequence[str] | None = None

    def __post_init__(self) -> None:
        try:
            if self.trust is not None:
                # As text, which a log's header takes.
                object.__setattr__(self, "trust", os.fspath(self.trust))
            self._check()
        except TypeError as error:
            raise OnboardFault(Fault.OPTIONS, f"an option has the wrong type ({error})") from error

    def _check(self) -> None:
        if self.engine not in ENGINES:
            raise OnboardFault(Fault.OPTIONS, f"engine is {self.engine!r}, not one of {', '.join(ENGINES)}")
        if self.cpp_cache is not None and not isinstance(self.cpp_cache, str):
            raise OnboardFault(Fault.OPTIONS, "cpp_cache is the name of a folder")
        if not isinstance(self.provider, str) or not isinstance(self.provider_options, dict):
            raise OnboardFault(Fault.OPTIONS, "provider is a name, provider_options a dictionary")
        if self.engine_cache is not None and not (self.provider == TENSORRT and isinstance(self.engine_cache, str)):
            raise OnboardFault(Fault.OPTIONS, f"engine_cache is the name of a folder, and goes with {TENSORRT} alone")
        other = next((name for name in self.provider_options if name not in SAME_ARITHMETIC), None)
        if self.provider == TENSORRT and other is not None and not self.allow_unverified:
            raise OnboardFault(
                Fault.OPTIONS,
                f"{other}: TensorRT was verified without it; engine_cache keeps engines, leave others out",
            )
        # Zero would leave the number to onnxruntime, and what runs would depend on the computer.
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or not 1 <= self.threads <= MAX_THREADS:
            raise OnboardFault(Fault.OPTIONS, f"threads is {self.threads!s:.20}, not 1 to {MAX_THREADS}")
        if self.level not in LEVELS:
            raise OnboardFault(Fault.OPTIONS, f"level is {self.level!r}, not one of {', '.join(LEVELS)}")
        if self.tf32 and self.provider != CUDA:
            raise OnboardFault(Fault.OPTIONS, f"{self.provider} has no TF32")
        # Written so that NaN is refused too.
        if not 0 < self.tolerance <= MAX_TOLERANCE:
            raise OnboardFault(Fault.OPTIONS, f"tolerance is {self.tolerance}, not above 0 and at most {MAX_TOLERANCE}")
        if not 0 <= self.range_margin < math.inf:
            raise OnboardFault(Fault.OPTIONS, f"range_margin is {self.range_margin}, not a number of at least 0")
        order = self.joint_order
        if order is not None and (
            isinstance(order, str) or not all(isinstance(name, str) for name in order) or len(set(order)) != len(order)
        ):
            raise OnboardFault(Fault.OPTIONS, "joint_order is no list of different names")
        for name in ("max_state_age_s", "max_depth_age_s", "min_step_s", "max_step_s", "max_blind_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise OnboardFault(Fault.OPTIONS, f"{name} is {value}, not a number of at least 0")

    @property
    def trusted(self) -> Path | None:
        """File of the key that is trusted."""
        return None if self.trust is None else Path(self.trust)

    @property
    def native(self) -> bool:
        """Whether a C++ header runs."""
        return self.engine.startswith("cpp")

    @property
    def golden_tolerance(self) -> float:
        """Largest error of what the engine gives for the bundle's golden samples."""
        return max(self.tolerance, NARROW_TOLERANCES.get(self.engine, 0.0))

    @property
    def all_provider_options(self) -> dict[str, str]:
        """Options of the provider, TF32 among them."""
        tf32 = {"use_tf32": str(int(self.tf32))} if self.provider == CUDA else {}
        return {**tf32, **self.provider_options}

    @property
    def runtime(self) -> Runtime:
        """How the graph is run."""
        tf32 = self.all_provider_options.get("use_tf32", "0") != "0"
        return Runtime(self.provider, self.level, self.threads, tf32)
