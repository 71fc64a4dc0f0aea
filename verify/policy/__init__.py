"""The judge of bundles of any policy that is no `VisionActorCritic`: structure, behaviour through episodes, meaning."""
