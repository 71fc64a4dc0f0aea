"""Ways to corrupt a contract; each takes one and returns another."""

import math
from dataclasses import replace


def scaled_thrust(contract):
    scale = (contract.action.scale[0] * 1.05, *contract.action.scale[1:])
    return replace(contract, action=replace(contract.action, scale=scale))


def shifted_offset(contract):
    offset = (contract.action.offset[0] + 0.01, *contract.action.offset[1:])
    return replace(contract, action=replace(contract.action, offset=offset))


def other_action_order(contract):
    names = contract.action.names
    return replace(contract, action=replace(contract.action, names=(names[0], names[2], names[1], names[3])))


def other_threshold(contract):
    probability = 1.0 / (1.0 + math.exp(-0.31))
    return replace(contract, gate=replace(contract.gate, threshold_logit=0.31, threshold_probability=probability))


def other_threshold_probability(contract):
    return replace(contract, gate=replace(contract.gate, threshold_probability=0.5))


def other_release(contract):
    detector = replace(contract.gate.detector, release_logit=-9.0)
    return replace(contract, gate=replace(contract.gate, detector=detector))


def other_refractory_time(contract):
    detector = replace(contract.gate.detector, refractory_steps=1)
    return replace(contract, gate=replace(contract.gate, detector=detector))


def other_label_distance(contract):
    return replace(contract, gate=replace(contract.gate, label_distance_m=0.5))


def other_range(contract):
    first, *rest = contract.observation.terms
    wide = replace(first, low=(-99.0,) * 3, high=(99.0,) * 3)
    return replace(contract, observation=replace(contract.observation, terms=(wide, *rest)))


def other_action_limit(contract):
    return replace(contract, action=replace(contract.action, clip=2.0))


def other_label_offset(contract):
    return replace(contract, gate=replace(contract.gate, label_offset_steps=0))


def other_term_order(contract):
    first, second, *rest = contract.observation.terms
    swapped = (replace(second, start=0, stop=3), replace(first, start=3, stop=6), *rest)
    return replace(contract, observation=replace(contract.observation, terms=swapped))


def other_unit(contract):
    first, *rest = contract.observation.terms
    return replace(contract, observation=replace(contract.observation, terms=(replace(first, unit="ft/s"), *rest)))


def other_clip(contract):
    depth = replace(contract.observation.depth, clip_m=8.0)
    return replace(contract, observation=replace(contract.observation, depth=depth))


def no_normaliser(contract):
    return replace(contract, observation=replace(contract.observation, normalizer=None))


def other_normaliser_eps(contract):
    normalizer = replace(contract.observation.normalizer, eps=1e-5)
    return replace(contract, observation=replace(contract.observation, normalizer=normalizer))


def other_period(contract):
    period = replace(contract.timing.policy_period_s, value=0.02)
    return replace(contract, timing=replace(contract.timing, policy_period_s=period))


def other_latency(contract):
    latency = replace(contract.timing.action_latency_steps, value=0)
    return replace(contract, timing=replace(contract.timing, action_latency_steps=latency))


def other_checkpoint_hash(contract):
    return replace(contract, provenance=replace(contract.provenance, checkpoint_sha256="0" * 64))


def other_feature_hash(contract):
    return replace(contract, provenance=replace(contract.provenance, feature_sha256="0" * 64))


def other_head_hash(contract):
    return replace(contract, provenance=replace(contract.provenance, head_sha256="0" * 64))


def other_activation(contract):
    return replace(contract, network=replace(contract.network, activation="elu"))
