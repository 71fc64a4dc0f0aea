"""What tests of several rooms build: networks, checkpoints, feature files, bundles, vehicle files and environments."""
