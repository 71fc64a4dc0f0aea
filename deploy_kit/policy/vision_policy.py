"""`VisionActorCritic` behind the protocol of every policy."""

from collections.abc import Mapping

from torch import Tensor

from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.plan import Plan, PlanBuilder
from deploy_kit.policy.protocol import ObservationGroup, PolicyNetwork, PolicySpec

GROUP = "policy"
"""Isaac Lab's name of the one observation group."""


class VisionPolicy(PolicyNetwork):
    """A `VisionActorCritic` as a policy of one flat observation group; its gate head is the head.

    Args:
        network: network in eval mode; it is held, not copied.
    """

    def __init__(self, network: VisionActorCritic) -> None:
        config = network.config
        super().__init__(
            PolicySpec(
                kind=type(network).__name__,
                groups=(ObservationGroup(GROUP, (config.layout.size,)),),
                num_actions=config.num_actions,
                feature_size=config.feature_size,
                feature_layer="actor.0",
                normalizer_eps=config.normalizer_eps,
            )
        )
        self.network = network
        self.head = network.aux_decoder

    def act(
        self, observation: Mapping[str, Tensor], state: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return action and fused features of a flat observation."""
        output = self.network(observation[GROUP])
        return output.action, output.features, ()

    def policy_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that fly, without the gate head."""
        left = ("critic.", "aux_decoder.")
        return {
            name: tensor
            for name, tensor in self.network.state_dict().items()
            if not name.startswith(left) and not name.endswith("num_batches_tracked")
        }

    def plan(self) -> Plan:
        """Return the operators of one step, batch norms unfolded."""
        network, builder = self.network, PlanBuilder()
        layout = network.config.layout
        value = builder.input(GROUP)
        if network.normalizer is not None:
            normalizer = network.normalizer
            value = builder.normalised(
                value, normalizer.mean, normalizer.std + normalizer.eps, "observation normaliser"
            )
        state = builder.columns(value, 0, layout.state_size, "state")
        image = builder.columns(value, layout.state_size, layout.size, "depth image")
        image = builder.module(builder.image(image, (1, *layout.image_shape), "depth image"), network.stem, "stem")
        fused = builder.add("Add", [image, builder.linear(state, network.state_enc, "state_enc")], "fused features")
        features = builder.activation(fused, network.activation, "the features' activation")
        return builder.finish(builder.module(features, network.actor, "actor"), features)
