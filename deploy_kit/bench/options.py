"""Options of `bench_bundle`."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from deploy_kit.bundle.runtime import Runtime, runtimes
from deploy_kit.errors import OptionError
from deploy_kit.policy.network_hints import NetworkHints

MAX_RATE_HZ = 10_000.0
TURN = 50
"""Steps of a candidate before the next one's turn, back to back."""


@dataclass(frozen=True)
class BenchOptions:
    """Options of `bench_bundle`.

    Attributes:
        bundle: folder that `export` wrote.
        checkpoint: what the bundle's artifacts are proven against, and what PyTorch runs; None for the bundle's own
            weights.
        onnx: other graphs to run beside it.
        masterracing: whether to run the same network in the form of MasterRacing's export too.
        providers: of onnxruntime, "cpu", "cuda" or "tensorrt".
        optimisation_levels: of the graph, "disabled", "basic", "extended" or "all".
        onnx_threads: threads of one inference.
        tf32: whether CUDA may round to TF32.
        torchscript: whether to run TorchScript.
        steps: of each candidate, back to back; 0 for none.
        paced_steps: of each candidate, one a period; 0 for none.
        rate_hz: steps a second of the paced ones; None for the contract's rate.
        start: whether to measure the start in a fresh process, and its memory.
        hints: what the checkpoint's weights do not tell.
    """

    bundle: Path
    checkpoint: Path | None = None
    onnx: tuple[Path, ...] = ()
    masterracing: bool = False
    providers: tuple[str, ...] = ("cpu",)
    optimisation_levels: tuple[str, ...] = ("all",)
    onnx_threads: tuple[int, ...] = (1,)
    tf32: bool = False
    torchscript: bool = True
    steps: int = 4000
    paced_steps: int = 200
    rate_hz: float | None = None
    start: bool = True
    hints: NetworkHints = field(default_factory=NetworkHints)

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """Ways to run a graph; ratios are to the first one."""
        return runtimes(self.providers, self.optimisation_levels, self.onnx_threads, self.tf32)

    def check(self) -> None:
        """Check the values.

        Raises:
            OptionError: a value is out of range, or two contradict each other.
        """
        for name, value in (("--steps", self.steps), ("--paced-steps", self.paced_steps)):
            if value < 0:
                raise OptionError(f"{name} {value}: a number of at least 0 is needed")
        if not (self.steps or self.paced_steps or self.start):
            raise OptionError("nothing is left to measure: give --steps or --paced-steps, or leave out --no-start")
        if self.rate_hz is not None and not 0 < self.rate_hz <= MAX_RATE_HZ:
            raise OptionError(f"--rate {self.rate_hz:g}: give steps a second, above 0 and at most {MAX_RATE_HZ:g}")
        if self.rate_hz is not None and not self.paced_steps:
            raise OptionError("--rate has no effect with --paced-steps 0; leave one out")
        if not (self.providers and self.optimisation_levels and self.onnx_threads):
            raise OptionError("no provider, level or number of threads is left")
        if 0 in self.onnx_threads:
            raise OptionError("--onnx-threads 0: a number from 1 is needed")
        for runtime in self.runtimes:
            runtime.check()
        if self.tf32 and "cuda" not in self.providers:
            raise OptionError("--tf32 has no effect without --provider cuda; leave it out")

    def rounds(self, steps: int) -> int:
        """Return how many turns of `TURN` hold that many steps."""
        return math.ceil(steps / TURN)
