"""The weights that a checkpoint implies for its artifacts, and how closely they must be met."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from deploy_kit.verify.structure.graph import Array


def values_of(tensor: torch.Tensor | None) -> Array:
    """Return a tensor's values."""
    assert tensor is not None
    return tensor.detach().cpu().numpy()


def folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Return weight and bias of a convolution with its batch norm folded in, each exact and in float32 in two forms.

    The exact one is computed in float64, for folding that rounds once; exporters that fold in float32 round at each of
    three operations: torch multiplies by the inverse root of the variance, onnxscript's rewriter divides by the root.
    """
    mean, var = values_of(norm.running_mean).astype(np.float64), values_of(norm.running_var).astype(np.float64)
    factor = values_of(norm.weight).astype(np.float64) / np.sqrt(var + norm.eps)
    weight = values_of(convolution.weight).astype(np.float64) * factor[:, None, None, None]
    bias = values_of(norm.bias).astype(np.float64) - mean * factor
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight32, bias32 = fuse_conv_bn_weights(
        convolution.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    divided = values_of(norm.weight) / np.sqrt(values_of(norm.running_var) + np.float32(norm.eps))
    weight_divided = values_of(convolution.weight) * divided[:, None, None, None]
    bias_divided = -values_of(norm.running_mean) * divided + values_of(norm.bias)
    return (weight, values_of(weight32), weight_divided), (bias, values_of(bias32), bias_divided)


def affine(norm: nn.BatchNorm2d) -> dict[str, tuple[Array, Array]]:
    """Return what a batch norm written with elementary operators multiplies, divides and adds, as (exact, in float32).

    "scale" and "shift" stand for `x · scale + shift`; "std" and "rstd" for the root of the variance and its inverse.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    found: dict[str, list[Array]] = {}
    for dtype in (torch.float64, torch.float32):
        mean, var, weight, bias = (
            tensor.detach().cpu().to(dtype) for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        std = torch.sqrt(var + norm.eps)
        scale = weight / std
        for name, value in (("scale", scale), ("shift", bias - mean * scale), ("std", std), ("rstd", 1.0 / std)):
            found.setdefault(name, []).append(value.numpy())
    return {name: (exact, rounded) for name, (exact, rounded) in found.items()}


def difference(found: Array, expected: Sequence[Array]) -> str | None:
    """Say how a weight differs from what is implied, None if it does not.

    Args:
        found: in the artifact.
        expected: one array, to be met bit for bit; or several, one of which is to be met to one unit in the last place.
    """
    if found.dtype != np.float32:
        return f"is {found.dtype}, expected float32"
    if found.shape != expected[0].shape:
        return f"has shape {found.shape}, expected {expected[0].shape}"
    misses = [_missed(found, wanted, ulps=len(expected) > 1) for wanted in expected]
    missed = min(misses, key=lambda mask: int(mask.sum()))
    if not missed.any():
        return None
    error = np.abs(found.astype(np.float64) - expected[0])
    where = np.unravel_index(int(np.where(missed, np.nan_to_num(error, nan=np.inf), -1.0).argmax()), found.shape)
    index = ", ".join(str(int(i)) for i in where)
    return f"differs in {int(missed.sum())} of {found.size} values, by up to {error[where]:.3g} at [{index}]"


def _missed(found: Array, wanted: Array, *, ulps: bool) -> Array:
    if not ulps:
        return np.asarray(found != wanted)
    unit = np.spacing(np.abs(wanted).astype(np.float32)).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(~(np.abs(found.astype(np.float64) - wanted) <= unit))
