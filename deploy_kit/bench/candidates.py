"""What is timed: each artifact of a bundle in each engine, opened once its static checks have passed."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from deploy_kit.bench.fresh import peak_mib, start_fresh
from deploy_kit.bench.masterracing_graph import masterracing_graph
from deploy_kit.bench.options import BenchOptions
from deploy_kit.bench.report import Start
from deploy_kit.bundle.reader import (
    HEADERS,
    MANIFEST_NAME,
    MAX_FILE_BYTES,
    ONNX_NAME,
    SAFETENSORS_NAME,
    TORCHSCRIPT_NAME,
    Bundle,
    manifest_text,
)
from deploy_kit.bundle.runners import ArtifactError, Float32, import_onnxruntime, onnxruntime_errors, split_inputs
from deploy_kit.bundle.runtime import Runtime, session_options
from deploy_kit.bundle.variants import VARIANTS
from deploy_kit.errors import OptionError
from deploy_kit.onboard import OnboardFault, OnboardOptions, OnboardPolicy
from deploy_kit.onboard.binding import BoundSession
from deploy_kit.onboard.bundle import load_bundle
from deploy_kit.onboard.native import NativeEngine
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.text import one_line
from deploy_kit.timing import Timer, timer
from deploy_kit.verify.structure.onnx_file import hidden, load_graph
from deploy_kit.verify.structure.sandbox import SandboxedModule, start_anew
from deploy_kit.verify.structure.torchscript_file import read_torchscript

TF32_TOLERANCE = 1e-2
"""Of the golden samples with TF32, which is off by up to 4e-3."""

MAX_INPUT = 1 << 24
"""Numbers of an input of a graph that the user names."""


@dataclass(frozen=True)
class Candidate:
    """Something that is timed.

    Attributes:
        artifact: what runs.
        engine: what runs it.
        runtime: provider, optimisation level and threads; None where the engine has no choice.
        timer: runs it.
        start: measures its start in a fresh process.
        bytes: size of the artifact; None where it is none.
    """

    artifact: str
    engine: str
    runtime: str | None
    timer: Timer
    start: Callable[[], Start]
    bytes: int | None = None


@dataclass(frozen=True)
class Input:
    """What every candidate is given: one golden sample.

    Attributes:
        observation: (1, n) flat, as the network takes it.
        feed: the graph's inputs by name.
        state: what the onboard runner takes, in SI units; None where the contract does not tell.
        depth: metres; likewise.
    """

    observation: Float32
    feed: dict[str, Float32]
    state: np.ndarray[Any, np.dtype[np.float64]] | None
    depth: Float32 | None


def input_of(bundle: Bundle) -> Input:
    """Return the first golden sample in all forms, as many rows as a fixed batch has."""
    contract = bundle.contract
    observation = bundle.golden.observation[:1]
    rows = np.repeat(observation, contract.batch or 1, axis=0)
    spec = contract.observation
    state = depth = None
    if spec.depth.divisor_m is not None:
        state = observation[0, : spec.state_size].astype(np.float64)
        for term in spec.terms:
            place = slice(term.start, term.stop)
            if term.scale is not None:
                state[place] /= np.array(term.scale)
            if term.low is not None and term.high is not None:
                # A recorded state may lie outside what the runner flies.
                state[place] = np.clip(state[place], term.low, term.high)
        image = observation[0, spec.state_size :].reshape(spec.depth.rows, spec.depth.columns)
        depth = (image * np.float32(spec.depth.divisor_m)).astype(np.float32)
    return Input(observation, split_inputs(rows, contract), state, depth)


class Bench:
    """Opens a bundle's candidates; what cannot be opened is named with the reason.

    Args:
        bundle: its static checks have passed.
        network: what its artifacts are proven to compute.
        options: which candidates.
        folder: for the files that fresh processes read; what lies there is what was checked.

    Attributes:
        left_out: why a candidate does not run, by its name.
    """

    def __init__(self, bundle: Bundle, network: VisionActorCritic, options: BenchOptions, folder: Path) -> None:
        self._bundle, self._network, self._options, self._folder = bundle, network, options, folder
        self._ort = import_onnxruntime()
        self._input = input_of(bundle)
        self.left_out: dict[str, str] = {}
        np.savez(folder / "observation.npz", observation=self._input.observation)
        # The onboard runner reads a folder itself, also in fresh processes minutes later: it gets what was checked.
        self._checked = folder / "bundle"
        self._checked.mkdir()
        for file in bundle.files:
            (self._checked / file).write_bytes(bundle.read(file))
        (self._checked / MANIFEST_NAME).write_text(manifest_text(self._checked), encoding="utf-8")

    def candidates(self, torchscript: str | None) -> Iterator[Candidate]:
        """Yield all candidates, the bundle's graph in onnxruntime first.

        Args:
            torchscript: why TorchScript does not run; None if it does.

        Raises:
            ArtifactError: the bundle's graph cannot be run.
            OptionError: a graph that the user named cannot be run.
        """
        data = self._bundle.read(ONNX_NAME)
        for runtime in self._options.runtimes:
            if self._is_there(runtime, "onnx"):
                yield from self._graph("onnx", data, runtime)
                yield from self._onboard(runtime)
        for kind, file in VARIANTS.items():
            for runtime in self._options.runtimes if file in self._bundle.files else ():
                if self._is_there(runtime, kind):
                    yield from self._graph(f"onnx {kind}", self._bundle.read(file), runtime)
                    yield from self._onboard(runtime, f"onnx {kind}", file, f"onnxruntime-{kind}")
        for form in (form for form, file in HEADERS.items() if file in self._bundle.files):
            yield from self._header(form)
        if torchscript is None:
            yield self._torchscript()
        else:
            self.left_out["torchscript"] = torchscript
        yield self._pytorch()
        if self._options.masterracing:
            formed = masterracing_graph(load_graph(data, ONNX_NAME), self._bundle.contract).SerializeToString()
            if self._is_there(self._options.runtimes[0], "masterracing"):
                yield from self._graph("masterracing", formed, self._options.runtimes[0], bound=False)
        for path in self._options.onnx:
            yield from self._other(path)

    def _is_there(self, runtime: Runtime, artifact: str) -> bool:
        wanted, available = runtime.execution_provider, self._ort.get_available_providers()
        if wanted not in available:
            self.left_out[f"{artifact}, {runtime}"] = f"onnxruntime has no {wanted}, only {', '.join(available)}"
        return wanted in available

    def _graph(
        self,
        artifact: str,
        data: bytes,
        runtime: Runtime,
        feed: dict[str, Float32] | None = None,
        bound: bool = True,
    ) -> Iterator[Candidate]:
        """Yield a graph in onnxruntime, called with arrays and, if `bound`, with buffers bound once."""
        name, inputs = f"{artifact}, session.run, {runtime}", feed or self._input.feed
        wanted = runtime.execution_provider
        path = self._folder / f"{len(list(self._folder.iterdir()))}.onnx"
        path.write_bytes(data)
        errors = onnxruntime_errors()
        try:
            options = session_options(self._ort, runtime)
            session = self._ort.InferenceSession(data, options, providers=[(wanted, runtime.provider_options)])
            # Else a session whose provider fails goes on with another one, and that would be timed.
            session.disable_fallback()
            session.run(None, inputs)
        except errors as error:
            raise ArtifactError(f"onnxruntime cannot run {artifact} on {runtime}: {one_line(error)}") from error
        if (used := session.get_providers()[0]) != wanted:
            self.left_out[name] = f"onnxruntime runs on {used}, asked for {wanted}"
            return
        arrays = path.with_suffix(".npz")
        named: dict[str, Any] = dict(inputs)
        np.savez(arrays, **named)
        job = {"kind": "onnx", "model": str(path), "runtime": asdict(runtime), "inputs": str(arrays)}

        def start() -> Start:
            return start_fresh(job)

        step = timer(lambda: session.run(None, inputs))
        yield Candidate(artifact, "session.run", str(runtime), step, start, len(data))
        if not bound:
            return
        yield Candidate(artifact, "io binding", str(runtime), timer(self._bound(session, inputs)), start, len(data))

    def _bound(self, session: Any, inputs: dict[str, Float32]) -> Callable[[], None]:
        """Return the run of a session on bound arrays, as the runner has it, after a look at whether it is that run.

        Raises:
            ArtifactError: it gives something else than the session does.
        """
        given = {name: np.zeros_like(array, order="C") for name, array in inputs.items()}
        names = [value.name for value in session.get_outputs()]
        wanted = session.run(names, inputs)
        outputs = [np.empty_like(array, order="C") for array in wanted]
        bound = BoundSession(session, given.items(), zip(names, outputs, strict=True))
        bound.run()
        # Written after they were bound, as in flight.
        for name, array in inputs.items():
            given[name][...] = array
        bound.run()
        if not all(np.allclose(a, b, 1e-3, 1e-3) for a, b in zip(outputs, wanted, strict=True)):
            raise ArtifactError("bound arrays give something else than the session's run")
        return bound.run

    def _onboard(
        self, runtime: Runtime, artifact: str = "onnx", file: str = ONNX_NAME, engine: str = "onnxruntime"
    ) -> Iterator[Candidate]:
        options: dict[str, Any] = {
            "engine": engine,
            "provider": runtime.execution_provider,
            "threads": runtime.threads,
            "level": runtime.level,
            "tf32": runtime.tf32,
            "allow_unverified": True,
            **({"tolerance": TF32_TOLERANCE} if runtime.tf32 else {}),
        }
        yield from self._onboard_step(artifact, file, str(runtime), options)

    def _header(self, form: str) -> Iterator[Candidate]:
        """Yield a C++ header, built for this computer: one call of the network, and the runner's step with it."""
        options: dict[str, Any] = {"engine": form, "cpp_cache": str(self._folder), "allow_unverified": True}
        try:
            engine = NativeEngine(load_bundle(self._checked, engine=form), OnboardOptions(**options))
        except OnboardFault as fault:
            self.left_out[form] = f"the runner refuses it: {one_line(fault)}"
            return
        size = self._bundle.contract.observation.state_size
        engine.state[:] = self._input.observation[0, :size]
        engine.image[:] = self._input.observation[0, size:].reshape(engine.image.shape)
        job = {"kind": "native", "bundle": str(self._checked), "options": options}
        data = self._bundle.read(HEADERS[form])
        yield Candidate(form, "native run", None, timer(engine.run), lambda: start_fresh(job), len(data))
        yield from self._onboard_step(form, HEADERS[form], None, options)

    def _onboard_step(
        self, artifact: str, file: str, runtime: str | None, options: dict[str, Any]
    ) -> Iterator[Candidate]:
        name = ", ".join(filter(None, (artifact, "onboard step", runtime)))
        state, depth = self._input.state, self._input.depth
        if state is None or depth is None:
            self.left_out[name] = "the contract does not tell the depth that the image is divided by"
            return
        try:
            policy = OnboardPolicy(self._checked, OnboardOptions(**options))
            if (acting := policy.contract.last_action) is not None:
                state = np.delete(state, slice(*acting))
            policy.step(state, depth)
        except OnboardFault as fault:
            self.left_out[name] = f"the runner refuses it: {one_line(fault)}"
            return
        given, image = state, depth
        arrays = self._folder / "onboard.npz"
        np.savez(arrays, state=given, depth=image)
        job = {"kind": "onboard", "bundle": str(self._checked), "options": options, "inputs": str(arrays)}
        size = len(self._bundle.read(file))
        step = timer(lambda: policy.step(given, image))
        yield Candidate(artifact, "onboard step", runtime, step, lambda: start_fresh(job), size)

    def _torchscript(self) -> Candidate:
        data = self._bundle.read(TORCHSCRIPT_NAME)
        archive = read_torchscript(data).archive
        module = SandboxedModule(archive)
        inputs = [self._input.feed[spec.name] for spec in self._bundle.contract.inputs]
        module(inputs)

        def start() -> Start:
            start_anew()
            opening = timer(lambda: SandboxedModule(archive))
            opened_ns = opening(1)[0]
            fresh = SandboxedModule(archive)
            first_ns = fresh.time(inputs, 1)[0]
            return Start((opened_ns + first_ns) / 1e9, opened_ns / 1e9, first_ns / 1e3, peak_mib(fresh.process_id))

        return Candidate(
            "torchscript", "torch, confined", None, lambda count: module.time(inputs, count), start, len(data)
        )

    def _pytorch(self) -> Candidate:
        network, observation = self._network, torch.from_numpy(self._input.observation)
        weights = self._folder / SAFETENSORS_NAME
        weights.write_bytes(self._bundle.read(SAFETENSORS_NAME))
        inputs = str(self._folder / "observation.npz")
        job = {"kind": "pytorch", "weights": str(weights), "inputs": inputs}

        def step() -> object:
            with torch.inference_mode():
                return network(observation)

        return Candidate("pytorch", "eager", None, timer(step), lambda: start_fresh(job))

    def _other(self, path: Path) -> Iterator[Candidate]:
        try:
            if (size := path.stat().st_size) > MAX_FILE_BYTES:
                raise OptionError(f"--onnx {path}: {size} bytes, at most {MAX_FILE_BYTES} are read")
            data = path.read_bytes()
        except OSError as error:
            raise OptionError(f"--onnx {path}: cannot be read ({error.strerror or error})") from error
        try:
            model = load_graph(data, str(path))
        except ArtifactError as error:
            raise OptionError(f"--onnx: {error}") from error
        if problem := next(hidden(model), None):
            raise OptionError(f"--onnx {path}: {problem}; it is not run")
        feed = self._feed_for(path, model)
        for runtime in (runtime for runtime in self._options.runtimes if self._is_there(runtime, path.name)):
            try:
                yield from self._graph(path.name, data, runtime, feed, bound=False)
            except ArtifactError as error:
                raise OptionError(f"--onnx {path}: {error}") from error

    def _feed_for(self, path: Path, model: onnx.ModelProto) -> dict[str, Float32]:
        """Return the golden sample for inputs of the bundle's names and shapes, else seeded numbers in [0, 1)."""
        rng, feed = np.random.default_rng(0), {}
        stored = {tensor.name for tensor in model.graph.initializer}
        for value in model.graph.input:
            if value.name in stored:
                continue
            tensor = value.type.tensor_type
            if tensor.elem_type != onnx.TensorProto.FLOAT:
                raise OptionError(f"--onnx {path}: its input {value.name!r} is not float32")
            shape = tuple(dim.dim_value if dim.dim_value > 0 else 1 for dim in tensor.shape.dim)
            if np.prod(shape, dtype=np.float64) > MAX_INPUT:
                raise OptionError(f"--onnx {path}: its input {value.name!r} has shape {shape}")
            own = self._input.feed.get(value.name)
            feed[value.name] = own if own is not None and own.shape == shape else rng.random(shape, np.float32)
        return feed
