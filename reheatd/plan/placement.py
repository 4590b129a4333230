"""Which GPUs the engines get and which the workers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reheatd.errors import ConfigError

SPLITS = ("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp")
"""Arguments of vLLM that say over how many GPUs an engine is split."""


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


def place(gpus: Sequence[str], *, replicas: int, workers: int, heads: int, split: int | None = None) -> Placement:
    """Shares the GPUs of a machine out.

    Each worker gets a GPU of its own if that leaves enough for the engines, else it shares one with an engine. Engines
    get equal shares of the others, and split their tensors over as many as their heads can be divided by.

    Args:
        heads: Heads of attention that queries have; each GPU of an engine needs the same number of them.
        split: GPUs of each engine, if the user has decided that.

    Raises:
        ConfigError: There are not enough GPUs for the engines.
    """
    if not gpus:
        return Placement(engines=((),) * replicas, workers=())
    least = split or 1
    if len(gpus) < replicas * least:
        each = f" of {least} GPUs each" if least > 1 else ""
        raise ConfigError(
            f"engine.replicas = {replicas}{each}, but there are {len(gpus)} GPUs; start fewer engines",
            param="engine.replicas",
        )
    own = min(workers, len(gpus) - replicas * least)
    share = (len(gpus) - own) // replicas
    split = split or max(n for n in range(1, share + 1) if heads % n == 0)
    engines = tuple(tuple(gpus[index * share : index * share + split]) for index in range(replicas))
    served = [gpu for engine in engines for gpu in engine]
    others = list(gpus[len(gpus) - own :])
    shared = [served[-1 - index % len(served)] for index in range(workers - own)]
    return Placement(
        engines=engines,
        workers=(*others, *shared),
        unused=tuple(gpu for gpu in gpus if gpu not in served and gpu not in others),
    )


def asked_split(extra_args: Sequence[str]) -> int | None:
    """GPUs of each engine that vLLM's own arguments ask for; None if they ask for no number.

    Raises:
        ConfigError: An argument has no number.
    """
    asked: list[int] = []
    for at, argument in enumerate(extra_args):
        name, equals, value = argument.partition("=")
        if name not in SPLITS:
            continue
        number = value if equals else next(iter(extra_args[at + 1 :]), "")
        if not number.isdecimal() or int(number) == 0:
            raise ConfigError(f"engine.extra_args: {name} needs a number of GPUs", param="engine.extra_args")
        asked.append(int(number))
    return math.prod(asked) if asked else None
