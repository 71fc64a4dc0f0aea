"""What makes a contract's meaning of observations and actions another one than the run's, in words."""

from collections.abc import Sequence

from deploy_kit.policy.run.resolve_task import resolve_task_meaning
from deploy_kit.policy.run.task_meaning import TaskMeaning
from deploy_kit.verify.opening import attempt
from deploy_kit.verify.policy.subject import PolicySubject

NOT_OF_THE_RUN = "observations or actions are described otherwise than the run's files do"


def task_cause(subject: PolicySubject) -> str:
    """Return why the contract's field `task` is not what the run's files imply.

    Args:
        subject: bundle and checkpoint, whose `task` differ.
    """
    ours = _meaning_by_run(subject)
    theirs = subject.contract.task
    if ours is None or theirs is None:
        return NOT_OF_THE_RUN
    for what, found, expected in _names(theirs, ours):
        if found != expected and sorted(found) == sorted(expected):
            place = next(index for index, (one, two) in enumerate(zip(found, expected, strict=True)) if one != two)
            return (
                f"{what} stand in another order than in the run: first at place {place}, {found[place]} in place of "
                f"{expected[place]}"
            )
    return NOT_OF_THE_RUN


def action_names(subject: PolicySubject) -> Sequence[str] | None:
    """Return what the run's files call the actions, in the checkpoint's order; None if they do not tell."""
    ours = _meaning_by_run(subject)
    return None if ours is None else ours.actions.names


def _meaning_by_run(subject: PolicySubject) -> TaskMeaning | None:
    """Return what the run's files say; what is wrong with them is told by the check `contract/task`."""
    spec = subject.checkpoint.network.spec
    return attempt(lambda: resolve_task_meaning(subject.checkpoint.params, spec.groups, spec.num_actions))[0]


def _names(theirs: TaskMeaning, ours: TaskMeaning) -> list[tuple[str, Sequence[str], Sequence[str]]]:
    """Return all ordered names of the contract beside those of the run."""
    joints = "the joints of the actions" if ours.actions.joints else "the actions"
    pairs: list[tuple[str, Sequence[str], Sequence[str]]] = [
        (joints, theirs.actions.names or (), ours.actions.names or ())
    ]
    for there, here in zip(theirs.groups, ours.groups, strict=False):
        found, expected = ([term.name for term in group.terms] for group in (there, here))
        pairs.append((f"the terms of {here.name}", found, expected))
        for one, two in zip(there.terms, here.terms, strict=False):
            what = f"the {'joints' if two.joints else 'components'} of {here.name}.{two.name}"
            pairs.append((what, one.components or (), two.components or ()))
    return pairs
