"""What the processes of a finetuning do besides the first one: their share of the training, and nothing else."""

from contextlib import ExitStack
from dataclasses import replace

from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import OptionError
from deploy_kit.finetuning.group import is_shared, join_group
from deploy_kit.finetuning.inputs import load_source, read_inputs
from deploy_kit.finetuning.options import ADAM, LBFGS, FinetuneOptions
from deploy_kit.finetuning.state import TrainingState
from deploy_kit.finetuning.training import AdamTraining, train_to_optimum
from deploy_kit.progress import silent

__all__ = ["help_train"]


def help_train(options: FinetuneOptions) -> None:
    """Share the training that the first process leads; nothing is written.

    Args:
        options: the same as the first process's.

    Raises:
        OptionError: no launcher started several processes, or the first one is gone.
        CheckpointError: the checkpoint cannot be read.
        DatasetError: a feature file cannot be read.
    """
    options, group = join_group(options)
    if group is None:
        raise OptionError("there is nobody to help: start several processes with torchrun")
    options.check()
    source = load_source(options)
    with ExitStack() as stack:
        stack.enter_context(group)
        files = [stack.enter_context(open_feature_file(path)) for path in options.paths()]
        inputs = read_inputs(source, files, options)
        options = replace(options, solver=LBFGS if group.decide(False) else ADAM)
        if options.solver == LBFGS:
            train_to_optimum(options, inputs, silent, group)
            return
        if not is_shared(options, ADAM):
            # The first process leaves the group too, and trains alone.
            return
        training = AdamTraining(options, inputs, options.attack, group)
        number = 0
        if options.resume:
            epochs, learned = TrainingState(options, inputs).load()
            training.learner.restore(learned)
            number = len(epochs)
        while group.decide(False):
            number += 1
            training.epoch(number, silent, "")
