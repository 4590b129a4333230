"""What the engine and the workers have in common as child processes."""

SHARED_CORES_ENV = {"GOMP_SPINCOUNT": "5000"}
"""Of engine and workers on a CPU. OpenMP threads that spin long while they wait take the cores from whoever shares
them: a worker's steps took twice as long beside a busy engine. Never spinning costs the engine alone a fifth of its
throughput; a short spin costs nothing."""
