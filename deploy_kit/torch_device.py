"""The torch device that the user names."""

import torch

from deploy_kit.errors import OptionError


def require_device(name: str) -> torch.device:
    """Return a device after using it once.

    Raises:
        OptionError: it is misspelt or not there.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"--device {name} is not available here ({str(error).splitlines()[0]})") from error
