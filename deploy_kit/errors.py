"""Every error that deploy-kit raises on purpose, with the exit code the command line gives it.

Messages are one line: what is wrong, where, and what to do next.

    DeployKitError
    ├── InputError            exit 2: the user gave something unusable
    │   ├── OptionError       an option, or a combination of options
    │   │   └── MissingParametersError   neither checkpoint, run nor options say it
    │   ├── CheckpointError   a checkpoint, or the run directory around it
    │   ├── DatasetError      a feature file
    │   ├── BundleError       an exported bundle
    │   ├── FlightLogError    a log of a flight
    │   ├── TaskError         a task, a track, a simulator back end
    │   └── MissingDependencyError   an optional package is not installed
    └── CheckFailedError      exit 1: a parity or accuracy check failed
"""


class DeployKitError(Exception):
    """Base of all deliberate errors.

    Attributes:
        exit_code: process exit code that the command line uses (0 done, 1 a check failed, 2 bad input).
    """

    exit_code = 2


class InputError(DeployKitError):
    """What the user gave cannot be used."""


class OptionError(InputError):
    """An option is wrong, or two options contradict each other."""


class MissingParametersError(OptionError):
    """Neither checkpoint, run nor options say something; the message names all that is missing, and what to type.

    Attributes:
        missing: one clause for each kind of parameter, with the options that give it.
    """

    def __init__(self, *missing: str) -> None:
        self.missing = missing
        super().__init__(
            f"{'; '.join(missing)}; or, if the run's agent.yaml and env.yaml lie elsewhere, give --params FOLDER"
        )


class CheckpointError(InputError):
    """A checkpoint cannot be found, read or understood."""


class DatasetError(InputError):
    """A feature file cannot be read, or does not fit the policy."""


class BundleError(InputError):
    """An exported bundle cannot be read."""


class FlightLogError(InputError):
    """A flight log cannot be read or converted."""


class TaskError(InputError):
    """A task, track or simulator back end is unknown or does not fit."""


class MissingDependencyError(InputError):
    """An optional package is needed and not installed; the message holds the install line."""


class CheckFailedError(DeployKitError):
    """A parity or accuracy check failed."""

    exit_code = 1
