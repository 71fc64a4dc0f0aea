"""Read what the runner needs of a bundle: manifest, contract, graph, golden samples."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .faults import Fault, OnboardFault

CONTRACT_VERSION = 1
MANIFEST_VERSION = 1
CONTRACT_METADATA_KEY = "deploy_kit_contract"

_NEEDED = ("policy.onnx", "contract.json", "golden.npz")
_MAX_BYTES = 1 << 30

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OnboardContract:
    """The part of a contract that the runner acts on.

    Attributes:
        text: the whole contract, parsed JSON.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
        flat: whether the graph takes one flat observation.
        state_low: (16,) smallest state to be expected.
        state_high: (16,) largest state to be expected.
        last_action: [start, stop) of the command now acting within the state, None if the state has no such term.
        image_shape: (rows, columns).
        clip_m: depth at which metres are clipped.
        divisor_m: what clipped metres are divided by.
        scale: (4,) of the action transform.
        offset: (4,) of the action transform.
        physical: whether the graph gives commands already.
        gate_probability: whether the gate output is a probability; None without a gate output.
        gate_threshold: in the unit of the gate output, None if the head was not calibrated.
        policy_period_s: time between two steps.
        depth_period_s: shortest time between two frames.
        latency_steps: policy steps between computing a command and its acting.
    """

    text: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    flat: bool
    state_low: npt.NDArray[np.float64]
    state_high: npt.NDArray[np.float64]
    last_action: tuple[int, int] | None
    image_shape: tuple[int, int]
    clip_m: float
    divisor_m: float
    scale: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    physical: bool
    gate_probability: bool | None
    gate_threshold: float | None
    policy_period_s: float
    depth_period_s: float
    latency_steps: int


@dataclass(frozen=True)
class OnboardBundle:
    """A bundle in memory: the bytes that were hashed are the bytes that run."""

    contract: OnboardContract
    model: bytes
    golden: dict[str, FloatArray]


def load_bundle(path: Path) -> OnboardBundle:
    """Read a bundle's folder; a path to the ONNX file inside one means the folder.

    Files that the manifest lists and the drone does not need may be left out; those that are there must be whole.

    Raises:
        OnboardFault: a needed file is missing, a file was altered, or the contract is of another version.
    """
    folder = path.parent if path.suffix == ".onnx" else path
    listed = _read_manifest(folder / "manifest.json")
    content: dict[str, bytes] = {}
    for name in sorted({*listed, *_NEEDED}):
        if Path(name).name != name or name not in listed:
            raise OnboardFault(Fault.BUNDLE_INCOMPLETE, f"{folder}: {name!r} is not listed as it should be")
        file = folder / name
        if not file.is_file():
            if name in _NEEDED:
                raise OnboardFault(Fault.BUNDLE_INCOMPLETE, f"{file} is missing: copy the bundle again")
            continue
        content[name] = _read_checked(file, listed[name])
    contract = parse_contract(content["contract.json"].decode("utf-8", "replace"))
    return OnboardBundle(contract, content["policy.onnx"], _read_golden(content["golden.npz"], contract))


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OnboardFault(Fault.BUNDLE_INCOMPLETE, f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise OnboardFault(Fault.BUNDLE_ALTERED, f"{path} is not JSON: copy the bundle again") from error
    files = data.get("files") if isinstance(data, dict) and data.get("manifest_version") == MANIFEST_VERSION else None
    if not isinstance(files, dict):
        raise OnboardFault(Fault.BUNDLE_ALTERED, f"{path} is no manifest of version {MANIFEST_VERSION}")
    return files


def _read_checked(path: Path, entry: Any) -> bytes:
    expected = entry if isinstance(entry, dict) else {}
    size = path.stat().st_size
    if size > _MAX_BYTES or size != expected.get("size"):
        raise OnboardFault(
            Fault.BUNDLE_ALTERED, f"{path} has {size} bytes, the manifest says {expected.get('size')}: copy it again"
        )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected.get("sha256"):
        raise OnboardFault(Fault.BUNDLE_ALTERED, f"{path} has another sha256 than the manifest says: copy it again")
    return data


def parse_contract(text: str) -> OnboardContract:
    """Return the runner's part of a contract.

    Raises:
        OnboardFault: another schema version, or a field is missing or unusable.
    """
    try:
        data = json.loads(text)
        version = data["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OnboardFault(Fault.CONTRACT_INVALID, f"contract.json cannot be read ({error!r})") from error
    if version != CONTRACT_VERSION:
        raise OnboardFault(
            Fault.CONTRACT_VERSION,
            f"contract.json has schema version {version!r}, this runner reads {CONTRACT_VERSION}: "
            "copy the runner of the deploy-kit that wrote the bundle",
        )
    try:
        return _parse_fields(data)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise OnboardFault(Fault.CONTRACT_INVALID, f"contract.json has an unusable field ({error!r})") from error


def _parse_fields(data: dict[str, Any]) -> OnboardContract:
    observation, action, gate, timing = (data[key] for key in ("observation", "action", "gate", "timing"))
    depth, terms = observation["depth"], observation["terms"]
    batch = data["inputs"][0]["shape"][0]
    if batch not in ("batch", 1):
        raise ValueError(f"the graph takes batches of {batch}; export with --batch-size 1 or dynamic")
    probability = None if gate is None else gate["output"] == "probability"
    threshold = None if gate is None else gate["threshold_probability" if probability else "threshold_logit"]
    acting = [(term["start"], term["stop"]) for term in terms if term["name"] == "last_action"]
    return OnboardContract(
        text=data,
        inputs=tuple(spec["name"] for spec in data["inputs"]),
        outputs=tuple(spec["name"] for spec in data["outputs"]),
        flat=observation["layout"] == "flat",
        state_low=_concatenate(terms, "low"),
        state_high=_concatenate(terms, "high"),
        last_action=acting[0] if acting else None,
        image_shape=(int(depth["rows"]), int(depth["columns"])),
        clip_m=float(depth["clip_m"]),
        divisor_m=float(depth["divisor_m"]),
        scale=np.array(action["scale"], np.float64),
        offset=np.array(action["offset"], np.float64),
        physical=bool(action["inside_graph"]),
        gate_probability=probability,
        gate_threshold=None if threshold is None else float(threshold),
        policy_period_s=float(timing["policy_period_s"]["value"]),
        depth_period_s=float(timing["depth_period_s"]["value"]),
        latency_steps=int(timing["action_latency_steps"]["value"]),
    )


def _concatenate(terms: list[dict[str, Any]], bound: str) -> npt.NDArray[np.float64]:
    return np.concatenate([np.array(term[bound], np.float64) for term in terms])


def _read_golden(data: bytes, contract: OnboardContract) -> dict[str, FloatArray]:
    rows, columns = contract.image_shape
    widths = {"observation": len(contract.state_low) + rows * columns, "action": len(contract.scale)}
    if contract.gate_probability is not None:
        widths |= {"gate_logit": 1, "gate_terms": 1}
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            golden = {name: archive[name] for name in widths}
    except (OSError, ValueError, KeyError) as error:
        raise OnboardFault(Fault.BUNDLE_ALTERED, f"golden.npz cannot be read ({error})") from error
    count = len(golden["observation"])
    for name, width in widths.items():
        if golden[name].shape != (count, width) or golden[name].dtype != np.float32 or count == 0:
            raise OnboardFault(Fault.BUNDLE_ALTERED, f"golden.npz: {name} has shape {golden[name].shape}")
    return golden
