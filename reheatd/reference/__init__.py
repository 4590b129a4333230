"""The reference: the base that a full RL checkpoint came from, whose entropy is the baseline."""
