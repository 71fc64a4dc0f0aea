"""What tests that export again and again share."""

from functools import cache


@cache
def share_operators() -> None:
    """Let all exports of this process share torch's table of ONNX operators.

    Each `torch.onnx.export` builds the same table anew, which takes a quarter of a small network's export. We never
    change it (that is `custom_translation_table`, which we do not give). The place is not public: where a torch has it
    no more, each export builds its own again.
    """
    from torch.onnx._internal.exporter import _registration

    registry = getattr(_registration, "ONNXRegistry", None)
    if hasattr(registry, "from_torchlib"):
        registry.from_torchlib = staticmethod(cache(registry.from_torchlib))
