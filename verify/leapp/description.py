"""LEAPP's description of a pipeline, read as data: one ONNX model, its file, its inputs and outputs."""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deploy_kit.bundle.reader import MAX_FILE_BYTES
from deploy_kit.errors import BundleError
from deploy_kit.yaml_file import read_yaml


@dataclass(frozen=True)
class LeappTensor:
    """An input or output as LEAPP describes it.

    Attributes:
        name: of the graph's tensor.
        shape: sizes, the batch first.
        dtype: element type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class LeappExport:
    """A pipeline of one model.

    Attributes:
        path: the description.
        sha256: of the description.
        model_path: the model's file.
        model: its bytes.
        stated: hashes that the description states, by their name.
        inputs: in the order in which LEAPP passes them.
        outputs: in the order in which LEAPP takes them.
        problems: what of the wiring LEAPP would do otherwise than one call of one model; empty if nothing.
    """

    path: Path
    sha256: str
    model_path: Path
    model: bytes
    stated: dict[str, str]
    inputs: tuple[LeappTensor, ...]
    outputs: tuple[LeappTensor, ...]
    problems: tuple[str, ...]

    @property
    def model_sha256(self) -> str:
        """Hash of the model's file."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def hash_problems(self) -> tuple[str, ...]:
        """What of the stated hashes is not the file's."""
        found = {
            "sha256sum": self.model_sha256,
            "md5sum": hashlib.md5(self.model, usedforsecurity=False).hexdigest(),
        }
        return tuple(
            f"{name} of {self.model_path.name} is {found[name][:12]}…, the description says {stated[:12]}…"
            for name, stated in self.stated.items()
            if stated != found[name]
        )


def read_leapp(path: Path) -> LeappExport:
    """Read a description and the model that it names; nothing is executed.

    Args:
        path: the YAML file.

    Raises:
        BundleError: it cannot be read, is no description of LEAPP, or holds what is no single ONNX model.
    """
    data = read_yaml(path, BundleError)
    if missing := [key for key in ("models", "pipeline", "system information") if not isinstance(data.get(key), dict)]:
        raise BundleError(f"{path} is no description of LEAPP: it has no mapping {missing[0]!r}")
    models = data["models"]
    if len(models) != 1:
        raise BundleError(f"{path} describes {len(models)} models; a policy is judged that is one")
    [(node, model)] = models.items()
    parts = model if isinstance(model, dict) else {}
    parameters, listed = parts.get("parameters"), [parts.get(key) for key in ("inputs", "outputs")]
    if not isinstance(parameters, dict) or not all(isinstance(entries, list) and entries for entries in listed):
        raise BundleError(f"{path}: the model {node!r} lacks inputs, outputs or parameters; export it again")
    if (backend := parameters.get("backend")) != "onnx":
        raise BundleError(f"{path}: the model's backend is {backend!r}; onnx is judged: export_with='onnx'")
    stated = {name: parameters.get(name) for name in ("sha256sum", "md5sum")}
    if not all(isinstance(value, str) for value in stated.values()):
        raise BundleError(f"{path}: the model's parameters lack sha256sum or md5sum; export it again")
    inputs, outputs = (tuple(_tensor(path, entry) for entry in entries or ()) for entries in listed)
    model_path = _model_path(path, parameters.get("model_path"))
    try:
        if model_path.stat().st_size > MAX_FILE_BYTES:
            raise BundleError(f"{model_path}: more than {MAX_FILE_BYTES} bytes; this is no policy")
        content, description = model_path.read_bytes(), path.read_bytes()
    except OSError as error:
        raise BundleError(f"{error.filename}: cannot be read ({error.strerror or error})") from error
    return LeappExport(
        path=path,
        sha256=hashlib.sha256(description).hexdigest(),
        model_path=model_path,
        model=content,
        stated={name: str(value) for name, value in stated.items()},
        inputs=inputs,
        outputs=outputs,
        problems=tuple(_wiring(str(node), data["pipeline"], inputs, outputs)),
    )


def _tensor(path: Path, entry: Any) -> LeappTensor:
    fields = entry if isinstance(entry, dict) else {}
    name, shape, dtype = (fields.get(key) for key in ("name", "shape", "dtype"))
    sizes = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
    if not (isinstance(name, str) and isinstance(dtype, str) and isinstance(shape, list) and sizes):
        raise BundleError(f"{path}: {str(entry)[:80]} is no tensor with name, shape and dtype; export it again")
    return LeappTensor(name, tuple(shape), dtype)


def _model_path(path: Path, name: Any) -> Path:
    """Return the model's file: beside the description, or below it, never elsewhere."""
    # LEAPP takes what lies beside the description first, and any other path after that.
    if (
        not isinstance(name, str)
        or not name
        or "\\" in name
        or "\0" in name
        or PurePosixPath(name).is_absolute()
        or ".." in PurePosixPath(name).parts
    ):
        raise BundleError(f"{path}: model_path is {name!r}; the model must lie beside the description")
    found = path.parent / name
    try:
        usable = not found.is_symlink() and found.is_file()
        inside = found.resolve().is_relative_to(path.parent.resolve())
    except (OSError, RuntimeError) as error:
        # A name that no file system takes.
        raise BundleError(f"{path}: model_path is {name[:80]!r}, which cannot be looked up: {error}"[:300]) from error
    if not usable:
        raise BundleError(f"{found}: the description names it, but it is no regular file; copy the export again")
    if not inside:
        raise BundleError(f"{found}: a folder on the way to the model is a link elsewhere; copy the export again")
    return found


def _wiring(
    node: str, pipeline: dict[str, Any], inputs: tuple[LeappTensor, ...], outputs: tuple[LeappTensor, ...]
) -> list[str]:
    problems = [
        f"the pipeline has {key}; a policy of one model without a memory has none"
        for key in ("data_flow", "feedback_flow", "initial_values")
        if pipeline.get(key)
    ]
    for kind, tensors in (("inputs", inputs), ("outputs", outputs)):
        named, listed = [tensor.name for tensor in tensors], pipeline.get(kind)
        if listed != {node: named}:
            problems.append(f"the pipeline's {kind} are {str(listed)[:80]}, the model's are {', '.join(named)}")
    problems += [f"{tensor.name} is {tensor.dtype}" for tensor in (*inputs, *outputs) if tensor.dtype != "float32"]
    if len({tensor.shape[0] for tensor in (*inputs, *outputs) if tensor.shape}) > 1:
        problems.append("inputs and outputs have different batches")
    return problems
