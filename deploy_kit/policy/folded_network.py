"""A network in evaluation mode, arranged for small batches on a CPU."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deploy_kit.policy.network import PolicyOutput, VisionActorCritic


def fold_batch_norms(stem: nn.Sequential) -> nn.Sequential:
    """Fold each batch norm into the convolution before it; done in float64, so that only the result is rounded."""
    folded: list[tuple[str, nn.Module]] = []
    for name, module in stem.named_children():
        if isinstance(module, nn.BatchNorm2d):
            convolution_name, convolution = folded.pop()
            assert isinstance(convolution, nn.Conv2d)
            folded.append((convolution_name, fuse_conv_bn_eval(convolution.double(), module.double()).float()))
        else:
            folded.append((name, module))
    result = nn.Sequential()
    for name, module in folded:
        result.add_module(name, module)
    return result


class FoldedNetwork:
    """What a network computes, in about half of the time: the same sums in another order.

    Batch norms are folded into their convolutions in float64 and rounded once, as in the exported graph; images lie
    channels last; activations overwrite their input; layers are called as functions. Outputs differ from the network's
    by float32 rounding. The network's weights are copied when it is built.

    Args:
        network: on the CPU. It is taken as in evaluation mode.
    """

    def __init__(self, network: VisionActorCritic) -> None:
        folded = copy.deepcopy(network).requires_grad_(False).eval()
        # Convolutions and activations by turns, what flattens, and the linear layer.
        *stem, _, linear = fold_batch_norms(folded.stem)
        assert isinstance(linear, nn.Linear)
        self._config, self._split, self._normalizer = network.config, folded.split, folded.normalizer
        self._convolutions = [
            (layer.weight.detach().to(memory_format=torch.channels_last), layer.bias, layer.stride)
            for layer in stem
            if isinstance(layer, nn.Conv2d)
        ]
        channels, rows, columns = network.config.stem_output_shape
        # The flattened image is ordered rows, columns, channels instead of channels, rows, columns.
        weight = linear.weight.reshape(-1, channels, rows, columns).permute(0, 2, 3, 1).flatten(1).contiguous()
        self._image = weight.t(), linear.bias + folded.state_enc.bias
        self._state = folded.state_enc.weight.t()
        self._actor = [_transposed(layer) for layer in folded.actor if isinstance(layer, nn.Linear)]
        self._gate = None if folded.aux_decoder is None else _transposed(folded.aux_decoder)
        activation = folded.activation
        if hasattr(activation, "inplace"):
            setattr(activation, "inplace", True)  # noqa: B010  # of some activations only
        self._activate: Callable[[Tensor], Tensor] = activation.forward

    def __call__(self, observation: Tensor) -> PolicyOutput:
        """Return action, gate logit and features of flat observations (B, 6928)."""
        activate = self._activate
        state, image = self._split(observation)
        if self._normalizer is not None:
            state, image = self._normalizer(state, image)
        for kernel, offset, stride in self._convolutions:
            image = activate(torch.conv2d(image, kernel, offset, stride))
        weight, bias = self._image
        fused = torch.addmm(bias, image.permute(0, 2, 3, 1).flatten(1), weight)
        features = activate(fused.addmm_(state, self._state))
        hidden = features
        for weight, bias in self._actor[:-1]:
            hidden = activate(torch.addmm(bias, hidden, weight))
        weight, bias = self._actor[-1]
        logit = None if self._gate is None else torch.addmm(self._gate[1], features, self._gate[0])
        return PolicyOutput(torch.addmm(bias, hidden, weight), logit, features)


def _transposed(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    return layer.weight.t(), layer.bias
