"""What computes the network: the ONNX graph in onnxruntime, or the C++ header built on this computer."""

from dataclasses import replace
from typing import Any, Protocol

from .bundle import OnboardBundle
from .contract import FloatArray
from .options import OnboardOptions


class Engine(Protocol):
    """Runs the network on buffers of its own, so that a step allocates nothing.

    Attributes:
        state: (16,) write the network's state here before `run`.
        image: (72, 96) write the normalised image here before `run`.
        first: (4,) action or command of the last `run`.
        gate: (1,) gate output of the last `run`, None without one.
        providers: what really runs.
        versions: software that runs it, by name, for the log's header.
    """

    state: FloatArray
    image: FloatArray
    first: FloatArray
    gate: FloatArray | None
    providers: tuple[str, ...]
    versions: dict[str, Any]

    def run(self) -> None:
        """Run the network on what stands in `state` and `image`.

        Raises:
            OnboardFault: it fails.
        """


def open_engine(bundle: OnboardBundle, options: OnboardOptions) -> Engine:
    """Return the engine that the options name.

    Raises:
        OnboardFault: it cannot be opened.
    """
    if options.native:
        from .native import NativeEngine

        return NativeEngine(bundle, options)
    # Imported here: the drone's computer needs onnxruntime for this engine alone.
    from .graph import Graph

    return Graph(bundle.model, bundle.contract, options)


def open_literal(bundle: OnboardBundle, options: OnboardOptions) -> Engine | None:
    """Return the variant of the graph as it is written, on the CPU and without optimisation; None for other engines.

    Raises:
        OnboardFault: it cannot be opened.
    """
    if options.native or options.engine == "onnxruntime":
        return None
    from .graph import Graph

    plain = replace(options, provider="CPUExecutionProvider", provider_options={}, tf32=False, level="disabled")
    return Graph(bundle.model, bundle.contract, plain)
