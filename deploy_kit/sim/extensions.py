"""Modules of the user's own that register tasks."""

import importlib

from deploy_kit.errors import TaskError


def import_extensions(names: tuple[str, ...]) -> None:
    """Import the user's modules, which register their tasks.

    Raises:
        TaskError: a module is not found.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A module that is found and lacks one of its own imports fails with that import's name.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise TaskError(f"--extension {name}: module {error.name!r} is not found; is it on PYTHONPATH?") from error
