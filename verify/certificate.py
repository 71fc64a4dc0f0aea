"""For which recorded decisions float32 rounding cannot matter: a bound on the gate logit's error, computed at each row.

A float32 sum of n terms, in any order and with fused multiplications or without, is off by at most γₙ = n·u / (1 - n·u)
times the terms' summed sizes, u = 2⁻²⁴ (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2). The
error of each layer reaches the logit through the layers after it. Their slopes are known: an activation has the
slopes that it takes within the largest error that its input can have. So

    |logit - exact logit| <= Σ over layers Σ |∂logit/∂z|·γₙ·(|W|·|a| + |b|),

with each derivative taken at its largest. The sums are computed in float64; what float64 rounds is added.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deploy_kit.bundle.runners import Float32
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.verify.findings import Certificate
from deploy_kit.verify.structure.implied_weights import folded

SLOPES: dict[str, tuple[float, float]] = {"lrelu": (0.01, 1.0), "relu": (0.0, 1.0), "identity": (1.0, 1.0)}
"""Slopes below and above 0 of the activations that a bound is known for."""

UNIT, UNIT64 = 2.0**-24, 2.0**-53

_TINY = 2.0**-126
"""Sums of numbers below the smallest normal one lose at most this each, whether such numbers are flushed or not."""

_BLOCK = 32


MAX_OBSERVATIONS = 256
"""Recorded observations that are looked at, spread evenly: some 2 ms each."""

MAX_FEATURE_ROWS = 50_000


@dataclass(frozen=True)
class Margins:
    """How far decisions are from flipping.

    Attributes:
        logit: (n,) the exact logit of the network with its batch norms folded.
        bound: (n,) largest error of any float32 evaluation of it.
    """

    logit: npt.NDArray[np.float64]
    bound: npt.NDArray[np.float64]

    def certain(self, threshold: float) -> int:
        """Return how many decisions no float32 evaluation could flip, the threshold rounded to float32 or not."""
        rounding = abs(threshold - float(np.float32(threshold)))
        return int((np.abs(self.logit - threshold) > self.bound + rounding).sum())


def certify(checkpoint: Checkpoint, observation: Float32, features: Float32) -> Certificate | None:
    """Return the figures of a policy's gate decisions, None without a gate head or with an activation not known here.

    Args:
        checkpoint: the truth; without a calibration decisions are cut at logit 0.
        observation: (n, 6928) recorded observations.
        features: (m, 192) recorded features.
    """
    network, calibration = checkpoint.network, checkpoint.calibration
    threshold = 0.0 if calibration is None else calibration.threshold_logit
    margins = logit_margins(network, observation)
    if margins is None:
        return None
    head = head_margins(network, features)
    radius = np.maximum(np.abs(head.logit - threshold) - head.bound, 0.0) / max(feature_radius(network), _TINY)
    training = {} if calibration is None else calibration.training
    epsilon = training.get("epsilon") if training.get("norm", "linf") == "linf" else None
    return Certificate(
        rows=len(observation),
        certain=margins.certain(threshold),
        largest_bound=float(margins.bound.max(initial=0.0)),
        feature_rows=len(features),
        feature_certain=head.certain(threshold),
        epsilon=float(epsilon) if isinstance(epsilon, (int, float)) else None,
        robust=int((radius > epsilon).sum()) if isinstance(epsilon, (int, float)) else None,
        median_radius=float(np.median(radius)) if len(radius) else 0.0,
    )


def logit_margins(network: VisionActorCritic, observation: Float32) -> Margins | None:
    """Return exact logits and bounds, None if the network's activation or head is not known here.

    Args:
        network: of the checkpoint.
        observation: (n, 6928).
    """
    if network.config.activation not in SLOPES or network.aux_decoder is None:
        return None
    bounded = _Bounded(network)
    parts = [bounded(observation[start : start + _BLOCK]) for start in range(0, len(observation), _BLOCK)]
    return Margins(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def head_margins(network: VisionActorCritic, features: Float32) -> Margins:
    """Return the same for features (n, 192) as they are stored: the error of the head's one sum."""
    assert network.aux_decoder is not None
    weight = network.aux_decoder.weight.detach().numpy().astype(np.float64)[0]
    bias = float(network.aux_decoder.bias.detach())
    rows = features.astype(np.float64)
    size = np.abs(rows) @ np.abs(weight) + abs(bias)
    return Margins(rows @ weight + bias, _outward(_gamma(weight.size + 1) * size + (weight.size + 1) * _TINY))


def feature_radius(network: VisionActorCritic) -> float:
    """Return how far each unit of perturbation of all features can move the logit: the head's summed weights."""
    assert network.aux_decoder is not None
    return float(network.aux_decoder.weight.detach().double().abs().sum())


def _gamma(terms: int, unit: float = UNIT) -> float:
    return terms * unit / (1.0 - terms * unit)


def _outward(bound: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a bound that holds for the float64 evaluation too, whose own errors are 2⁻²⁹ of it."""
    return np.asarray(np.nextafter(bound * (1.0 + 2.0**-20), np.inf))


@dataclass
class _Layer:
    """What the way back needs of one layer: its map, its error, and the slopes after it."""

    weight: Tensor
    stride: tuple[int, ...] | None
    shape: torch.Size
    error: Tensor
    low: Tensor
    high: Tensor
    rounding: Tensor


class _Bounded:
    def __init__(self, network: VisionActorCritic) -> None:
        self.network = network
        self.slopes = SLOPES[network.config.activation]
        self.convolutions = []
        for index in range(len(network.config.stem)):
            convolution, norm = network.stem[3 * index], network.stem[3 * index + 1]
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            # As they ship: the exact values rounded to float32.
            pair = [torch.from_numpy(values[0].astype(np.float32)).double() for values in folded(convolution, norm)]
            self.convolutions.append((pair[0], pair[1], convolution.stride))

    def __call__(self, observation: Float32) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        with torch.inference_mode():
            logit, bound = self._rows(torch.from_numpy(observation))
        return logit.numpy(), _outward(bound.numpy())

    def _rows(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        network = self.network
        state, depth = network.split(observation)
        (state, state_error), (value, error) = self._inputs(state, depth)
        layers: list[_Layer] = []
        for weight, bias, stride in self.convolutions:
            bias_map = bias.reshape(-1, 1, 1)
            before, shape = (value, error), value.shape
            value = nn.functional.conv2d(value, weight, stride=stride) + bias_map
            size = nn.functional.conv2d(before[0].abs() + before[1], weight.abs(), stride=stride) + bias_map.abs()
            own = self._sum_error(size, weight[0].numel() + 1)
            spread = nn.functional.conv2d(before[1], weight.abs(), stride=stride) + own
            value, error, layer = self._activated(value, spread, weight, stride, shape, own)
            layers.append(layer)
        last, encoder, head = network.stem[-1], network.state_enc, network.aux_decoder
        assert isinstance(last, nn.Linear)
        assert head is not None
        flat, flat_error = value.flatten(1), error.flatten(1)
        image, motion = last.weight.double(), encoder.weight.double()
        bias = last.bias.double() + encoder.bias.double()
        total = flat @ image.T + state @ motion.T + bias
        size = (flat.abs() + flat_error) @ image.abs().T + (state.abs() + state_error) @ motion.abs().T
        size = size + last.bias.double().abs() + encoder.bias.double().abs()
        own = self._sum_error(size, image.shape[1] + motion.shape[1] + 3)
        spread = flat_error @ image.abs().T + state_error @ motion.abs().T + own
        features, features_error, fused = self._activated(total, spread, image, None, flat.shape, own)
        weight = head.weight.double()
        logit = features @ weight.T + head.bias.double()
        size = (features.abs() + features_error) @ weight.abs().T + head.bias.double().abs()
        bound = self._sum_error(size, weight.shape[1] + 1)[:, 0]
        # Back: the derivative's middle and radius.
        middle, radius = weight.expand(len(features), -1), torch.zeros_like(features)
        middle, radius, bound = self._through(fused, middle, radius, bound)
        seen = (middle.abs() + radius) @ motion.abs()
        tight = (middle @ motion).abs() + radius @ motion.abs() + _gamma(motion.shape[0], UNIT64) * seen
        bound = bound + (tight * state_error).sum(1)
        middle, radius = self._linear_back(image, middle, radius)
        middle, radius = (part.reshape(value.shape) for part in (middle, radius))
        for layer in reversed(layers):
            middle, radius, bound = self._through(layer, middle, radius, bound)
            middle, radius = self._convolution_back(layer, middle, radius)
        if network.normalizer is not None:
            _, (_, depth_error) = self._inputs(*network.split(observation))
            bound = bound + ((middle.abs() + radius) * depth_error).flatten(1).sum(1)
        return logit[:, 0], bound

    def _inputs(self, state: Tensor, depth: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return what the encoders read, each with its error: two roundings of the normaliser, none without one."""
        normalizer = self.network.normalizer
        if normalizer is None:
            # mypy does not count what a generator yields.
            return tuple((part.double(), torch.zeros_like(part.double())) for part in (state, depth))  # type: ignore[return-value]
        split, shape = self.network.config.layout.state_size, (1, 1, *self.network.config.layout.image_shape)
        mean, scale = normalizer.mean.double(), (normalizer.std + normalizer.eps).double()
        # A multiplication by the inverse rounds a third time.
        pairs = []
        for part, where, form in ((state, slice(None, split), (1, split)), (depth, slice(split, None), shape)):
            value = (part.double() - mean[:, where].reshape(form)) / scale[:, where].reshape(form)
            pairs.append((value, _gamma(3) * value.abs() + _TINY))
        return pairs[0], pairs[1]

    def _sum_error(self, size: Tensor, terms: int) -> Tensor:
        return _gamma(terms) * size + terms * _TINY

    def _activated(
        self,
        value: Tensor,
        spread: Tensor,
        weight: Tensor,
        stride: tuple[int, ...] | None,
        shape: torch.Size,
        own: Tensor,
    ) -> tuple[Tensor, Tensor, _Layer]:
        """Return an activation's values and errors, and the layer; `spread` is the largest error of its input."""
        below, above = self.slopes
        low = torch.where(value - spread > 0, above, below)
        high = torch.where(value + spread > 0, above, below)
        low, high = torch.minimum(low, high), torch.maximum(low, high)
        after = torch.where(value > 0, above * value, below * value)
        error = high * spread
        rounding = UNIT * (after.abs() + error) + _TINY if below not in (0.0, 1.0) else torch.zeros_like(after)
        layer = _Layer(weight, stride, shape, own, low.double(), high.double(), rounding)
        return after, error + rounding, layer

    def _through(self, layer: _Layer, middle: Tensor, radius: Tensor, bound: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Go back through an activation; add its rounding and the error of the sum before it."""
        bound = bound + ((middle.abs() + radius) * layer.rounding).flatten(1).sum(1)
        centre, half = 0.5 * (layer.low + layer.high), 0.5 * (layer.high - layer.low)
        radius = radius * layer.high + half * middle.abs() + 4 * UNIT64 * middle.abs()
        middle = centre * middle
        return middle, radius, bound + ((middle.abs() + radius) * layer.error).flatten(1).sum(1)

    def _linear_back(self, weight: Tensor, middle: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        lost = _gamma(weight.shape[0], UNIT64)
        return middle @ weight, radius @ weight.abs() + lost * (middle.abs() @ weight.abs())

    def _convolution_back(self, layer: _Layer, middle: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        weight, size, stride = layer.weight, layer.shape, layer.stride
        assert stride is not None
        lost = _gamma(weight.shape[0] * weight[0, 0].numel(), UNIT64)
        # Rows and columns that the last stride left out have no effect.
        missing = [
            whole - ((part - 1) * step + kernel)
            for whole, part, step, kernel in zip(size[2:], middle.shape[2:], stride, weight.shape[2:], strict=True)
        ]

        def back(value: Tensor, kernel: Tensor) -> Tensor:
            return nn.functional.conv_transpose2d(value, kernel, stride=stride, output_padding=missing)

        return back(middle, weight), back(radius + lost * middle.abs(), weight.abs())
