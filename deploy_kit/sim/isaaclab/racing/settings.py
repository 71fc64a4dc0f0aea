"""What the racing task's terms are configured with."""

from deploy_kit.sim.options import EnvOptions
from deploy_kit.task.racing import RACING_TASK, Task


class RaceSettings:
    """Options and numbers of the racing task, closed to Isaac Lab's configuration classes.

    Those write into every dataclass that they hold, also into frozen ones; what has neither fields nor a ``__dict__``
    they leave alone.

    Args:
        options: options of the vector environment.
        task: numbers.
    """

    __slots__ = ("options", "task")

    def __init__(self, options: EnvOptions | None = None, task: Task = RACING_TASK) -> None:
        self.options = EnvOptions() if options is None else options
        self.task = task
