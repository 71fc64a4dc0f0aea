"""Networks of the user's own: found through the entry point group ``deploy_kit.networks``, or a module to import."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from deploy_kit.errors import OptionError
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.policy_layout import holds_safetensors
from deploy_kit.policy.protocol import PolicyNetwork
from deploy_kit.policy.run.params import RunParams

ENTRY_POINTS = "deploy_kit.networks"
"""Group of entry points; each names a `NetworkBuilder`."""


@dataclass(frozen=True)
class NetworkSource:
    """What a builder is given: plain data and tensors, nothing of which was executed.

    Attributes:
        path: the checkpoint, for messages.
        entries: everything in the file; for safetensors ``tensors`` and ``metadata``.
        params: the run's ``agent.yaml`` and ``env.yaml``.
        hints: what the user says.
    """

    path: Path
    entries: Mapping[str, Any]
    params: RunParams
    hints: NetworkHints

    def state_dict(self, section: str) -> dict[str, Tensor]:
        """Return the network's tensors: those of an entry of the file, or of a safetensors file without the head's.

        Args:
            section: entry of a torch file; without it, nothing is returned.
        """
        safetensors = holds_safetensors(self.entries)
        found = self.entries["tensors"] if safetensors else self.entries.get(section, {})
        if not isinstance(found, Mapping):
            return {}
        return {
            name: tensor
            for name, tensor in found.items()
            if isinstance(name, str) and isinstance(tensor, Tensor) and not (safetensors and name.startswith("head."))
        }


class NetworkBuilder(Protocol):
    """Builds networks of one kind."""

    name: str
    """What the kind is called in messages and in contracts."""

    def recognises(self, source: NetworkSource) -> bool:
        """Return whether a checkpoint holds a network of this kind."""

    def build(self, source: NetworkSource) -> PolicyNetwork:
        """Return the network with the checkpoint's weights, in eval mode, without gradients.

        Raises:
            CheckpointError: the checkpoint does not fit.
        """


_REGISTERED: dict[str, NetworkBuilder] = {}


def register_network(builder: NetworkBuilder) -> None:
    """Make a kind of network known; a module that is named with ``--extension`` calls this when it is imported."""
    _REGISTERED[builder.name] = builder


def find_builder(source: NetworkSource) -> NetworkBuilder | None:
    """Return the user's builder that recognises a checkpoint, None if none does.

    Raises:
        OptionError: a module of ``--extension`` is not found, or two builders recognise the checkpoint.
    """
    for module in source.hints.extensions:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise OptionError(
                f"--extension {module}: module {error.name!r} is not found; is it on PYTHONPATH?"
            ) from error
    known = {**{point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}, **_REGISTERED}
    found = [name for name, builder in known.items() if builder.recognises(source)]
    if len(found) > 1:
        raise OptionError(f"{source.path} is recognised by several networks: {', '.join(found)}; uninstall all but one")
    return known[found[0]] if found else None
