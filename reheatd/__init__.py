"""The daemon: serves a policy, watches its entropy, reheats and hot-swaps it. Imports no torch."""
