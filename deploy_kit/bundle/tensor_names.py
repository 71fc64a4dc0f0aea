"""Names of the exported graph's tensors."""

from collections.abc import Sequence

from deploy_kit.errors import OptionError

FEATURES_TENSOR = "features"
"""Name of the fused features inside the ONNX graph."""


def check_tensor_names(option: str, names: Sequence[str], count: int) -> None:
    """Check the names that the user gives to a graph's inputs or outputs.

    Args:
        option: the option that gives them, for messages.
        names: the names, in the graph's order.
        count: how many the graph has.

    Raises:
        OptionError: there are more or fewer, one is no name, given twice, or taken.
    """
    if len(names) != count:
        raise OptionError(f"{option}: {len(names)} given ({', '.join(names)}), the graph has {count}")
    for name in names:
        if not name.replace(".", "_").replace("-", "_").replace("/", "_").isidentifier():
            raise OptionError(f"{option}: {name!r} is no tensor name; use letters, digits and _ . - /")
        if names.count(name) > 1:
            raise OptionError(f"{option}: {name!r} is given twice")
        if name == FEATURES_TENSOR:
            raise OptionError(f"{option}: {name!r} names the features inside the graph; choose another name")
