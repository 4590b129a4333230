"""The daemon: it serves a policy, watches its entropy, reheats and hot-swaps it."""
