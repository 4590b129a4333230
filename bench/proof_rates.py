"""How often the proof of delivery is wrong, simulated from what real engines and trainers said.

`bench.proof_recording` recorded that. Each simulated proof takes one of its adapters, one number format for the engine
and one for the trainer, and as many items as a job hands over, drawn from the recorded ones with replacement.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reheatd.adapters.evidence import Evidence
from reheatd.adapters.lineage import ProofItem
from reheatd.adapters.proof import by_information
from reheatd.errors import DeliveryError
from reheatd.options import NumberFormat

RECORDING = Path(__file__).parent / "data" / "proof_logprobs.npz"
DELIVERED = "delivered"
ENGINES = ("not loaded", "half", "double", "another step", "another seed", "unrelated")
"""What may answer instead of the adapter."""
ANOTHER_BASE = "another base"
STALE = "stale "
KINDS = (*ENGINES, ANOTHER_BASE, *(STALE + engine for engine in ENGINES))
"""Everything that can be wrong."""
FORMATS: tuple[NumberFormat, ...] = ("bfloat16", "float32")
TOLERANCE = 0.1
STEP = 1e-4
"""Unit of the recorded numbers, in nats."""


@dataclass
class Rate:
    """Outcome of simulated proofs of one kind."""

    held: int = 0
    refused: int = 0
    tokens: list[int] = field(default_factory=list)
    """Tokens that each of them took."""


class Recording:
    """The recorded logprobs, from which proofs are simulated."""

    def __init__(self, file: Path = RECORDING) -> None:
        with np.load(file) as arrays:
            self._arrays = {key: arrays[key] for key in arrays.files}
        self._adapters = sorted({int(key.partition("/")[0]) for key in self._arrays})

    def rate(self, kind: str, proofs: int, rng: np.random.Generator) -> Rate:
        """Simulates proofs of an adapter that was `DELIVERED`, or of one of the `KINDS` that were not."""
        rate = Rate()
        for _ in range(proofs):
            adapter = int(rng.choice(self._adapters))
            engine, trainer = rng.choice(FORMATS), rng.choice(FORMATS)
            held, tokens = self._prove(adapter, engine, trainer, kind, rng)
            rate.held += held
            rate.refused += not held
            rate.tokens.append(tokens)
        return rate

    def _prove(self, adapter: int, engine: str, trainer: str, kind: str, rng: np.random.Generator) -> tuple[bool, int]:
        looks = self._looks(adapter, engine, trainer, kind, rng)
        items = by_information([look.item for look in looks])
        by_item = {id(look.item): look for look in looks}
        tokens = 0
        try:
            evidence = Evidence("simulated", items, tolerance=TOLERANCE)
            for item in items:
                look = by_item[id(item)]
                tokens += len(item.completion_ids)
                evidence.add(item, look.base, look.scored, look.cache, look.rounding)
                if evidence.verdict() is not None:
                    return True, tokens
            evidence.last_verdict()
        except DeliveryError:
            return False, tokens
        return True, tokens

    def _looks(self, adapter: int, engine: str, trainer: str, kind: str, rng: np.random.Generator) -> "list[_Look]":
        def recorded(name: str) -> np.ndarray:
            return self._arrays[f"{adapter}/{name}"]

        said_by = ANOTHER_BASE if kind == ANOTHER_BASE else trainer
        columns = [
            recorded(name).astype(np.float64) * STEP
            for name in (
                f"trainer {said_by}/new",
                f"trainer {said_by}/base",
                f"engine {engine}/base",
                f"engine {engine}/{kind if kind in ENGINES else DELIVERED}",
            )
        ]
        fresh = recorded(f"engine {engine}/cached") * STEP
        cache = recorded(f"engine {engine}/{kind}") * STEP if kind.startswith(STALE) else fresh
        lengths = recorded("lengths")
        ends = np.cumsum(lengths[:, 1])
        groups = [np.flatnonzero(lengths[:, 0] == 1), np.flatnonzero(lengths[:, 0] > 1)]
        looks = []
        for index in np.concatenate([rng.choice(group, len(group)) for group in groups]):
            prompt, completion = lengths[index].tolist()
            new, old, base, scored = (column[ends[index] - completion : ends[index]].tolist() for column in columns)
            item = ProofItem(prompt_ids=[0] * prompt, completion_ids=[0] * completion, logprobs=new, base_logprobs=old)
            looks.append(_Look(item, base, scored, float(cache[index]), float(fresh[index])))
        return looks


@dataclass(frozen=True)
class _Look:
    """What `Evidence.add` takes."""

    item: ProofItem
    base: list[float]
    scored: list[float]
    cache: float
    rounding: float
