"""What trains a linear head: one learner a solver and device."""
