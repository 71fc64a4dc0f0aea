"""Ways to corrupt a network before export; each takes a network and changes it, or returns another."""

import numpy as np
import torch

from helpers.mutations import largest_off
from helpers.networks import small_network


def drop_the_normaliser(network):
    changed = small_network(normalizer_eps=None)
    changed.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("normalizer.")})
    return changed


def change_normaliser_eps(network):
    network.normalizer.eps = 1e-5


def change_batch_norm_eps(network):
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3


def shift_one_weight(network):
    largest_off(network.actor[0].weight.numpy())


def permute_state(network):
    network.state_enc.weight.copy_(network.state_enc.weight[:, list(np.r_[3:6, 0:3, 6:16])])


def take_another_head(network):
    network.aux_decoder = small_network(5).aux_decoder


def take_another_network(network):
    return small_network(6)
