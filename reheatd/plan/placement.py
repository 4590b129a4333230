"""Which GPUs the engines get and which the workers."""

from collections.abc import Sequence
from dataclasses import dataclass

from reheatd.errors import ConfigError


@dataclass(frozen=True)
class Placement:
    """GPUs by their names in CUDA_VISIBLE_DEVICES; all is empty where there are none."""

    engines: tuple[tuple[str, ...], ...]
    """The GPUs over which each engine's tensors are split."""
    workers: tuple[str, ...]
    """The GPU of each worker."""
    unused: tuple[str, ...] = ()
    """GPUs that nobody gets, because no engine's heads can be split over one more."""

    def sharers(self, gpu: str) -> int:
        """Number of workers that use a GPU of an engine."""
        return self.workers.count(gpu)


def place(gpus: Sequence[str], *, replicas: int, workers: int, heads: int) -> Placement:
    """Shares the GPUs of a machine out.

    Each worker gets a GPU of its own if that leaves one for each engine, else it shares one with an engine. Engines get
    equal shares of the others, and split their tensors over as many as their heads can be divided by.

    Args:
        heads: Heads of attention that queries have; each GPU of an engine needs the same number of them.

    Raises:
        ConfigError: There are more engines than GPUs.
    """
    if not gpus:
        return Placement(engines=((),) * replicas, workers=())
    if len(gpus) < replicas:
        raise ConfigError(
            f"engine.replicas = {replicas}, but there are {len(gpus)} GPUs; start fewer engines",
            param="engine.replicas",
        )
    own = min(workers, len(gpus) - replicas)
    first_own = len(gpus) - own
    share = first_own // replicas
    split = max(n for n in range(1, share + 1) if heads % n == 0)
    engines = tuple(tuple(gpus[index * share : index * share + split]) for index in range(replicas))
    served = [gpu for engine in engines for gpu in engine]
    shared = [served[-1 - index % len(served)] for index in range(workers - own)]
    return Placement(
        engines=engines,
        workers=(*gpus[first_own:], *shared),
        unused=tuple(gpu for gpu in gpus[:first_own] if gpu not in served),
    )
