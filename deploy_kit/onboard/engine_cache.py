"""TensorRT engines kept between starts, each held to the hash that it was recorded with.

An engine is code for the GPU with the weights inside, and onnxruntime finds it by a name that does not tell the
weights. So each graph has a folder of its own that nobody else can write, and an engine that is not the recorded one is
refused. Whether an engine computes the policy, the golden samples say at every start.
"""

import hashlib
import json
import os
from pathlib import Path

from .builder import private_folder
from .faults import Fault, OnboardFault

RECORD_NAME = "engines.json"

_NEW_RECORD_NAME = "engines.json.new"


class EngineCache:
    """The folder of one graph's engines.

    Args:
        root: folder of all graphs' engines.
        model: the ONNX file.
        made_by: what engines follow from besides: onnxruntime's version, options.

    Attributes:
        folder: of this graph's engines.

    Raises:
        OnboardFault: a folder can be written by others.
    """

    def __init__(self, root: Path, model: bytes, made_by: str) -> None:
        key = hashlib.sha256(model + made_by.encode()).hexdigest()[:32]
        self.folder = private_folder(private_folder(root, "engines") / key, "engines")

    @property
    def options(self) -> dict[str, str]:
        """Options of TensorRT in onnxruntime."""
        return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(self.folder)}

    def check(self) -> None:
        """Check that every engine is the recorded one; those of a start that ended before it recorded any are removed.

        Raises:
            OnboardFault: an engine differs, or is not recorded.
        """
        try:
            if not (self.folder / RECORD_NAME).exists():
                for name in self._found():
                    (self.folder / name).unlink()
                return
            recorded = json.loads((self.folder / RECORD_NAME).read_text(encoding="utf-8"))
            wrong = [name for name, sha256 in self._found().items() if recorded.get(name) != sha256]
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise OnboardFault(
                Fault.RUNTIME, f"the engines in {self.folder} cannot be checked ({error}): remove the folder"
            ) from error
        if wrong:
            raise OnboardFault(
                Fault.RUNTIME,
                f"{wrong[0]} in {self.folder} is not the engine that was recorded: remove the folder, and it is built "
                "anew",
            )

    def record(self) -> None:
        """Record the engines that are there.

        Raises:
            OnboardFault: the record cannot be written.
        """
        try:
            new = self.folder / _NEW_RECORD_NAME
            new.write_text(json.dumps(self._found(), indent=1), encoding="utf-8")
            os.replace(new, self.folder / RECORD_NAME)
        except OSError as error:
            raise OnboardFault(Fault.RUNTIME, f"the engines in {self.folder} cannot be recorded: {error}") from error

    def _found(self) -> dict[str, str]:
        """Return the sha256 of each file beside the record."""
        records = (RECORD_NAME, _NEW_RECORD_NAME)
        paths = sorted(path for path in self.folder.iterdir() if path.name not in records)
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
