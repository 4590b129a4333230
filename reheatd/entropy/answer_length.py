"""How long answers to probes are sampled, with `entropy.max_tokens = "auto"`.

A window asks for the entropy of the states that the policy visits, so it must reach as far as the policy writes. What
it costs is what is generated: an engine returns logprobs of every token that it decodes, so leaving out tokens
afterwards would save nothing. The one thing that saves time is to stop an answer. So every answer is cut off at one
position, which is found once for a series: 90% of the base policy's own answers have ended there. The mean over the
tokens before it is unbiased for the policy's own distribution over these positions. What lies behind is not measured.
"""

from dataclasses import dataclass

import numpy as np

from reheatd.entropy.meter import EntropyMeter

ENDED = 0.9
"""Share of the answers that have ended by themselves before the position at which answers are cut off."""
LEAST_TOKENS = 48
"""Answers are not cut off before this position, however short those of the base policy are. A policy that goes on
answering so briefly does not pay for it, and one that learns to write longer is still seen."""


@dataclass(frozen=True)
class AnswerLength:
    """Finds the longest answer for a series.

    Args:
        window_tokens: Largest number of tokens that a window may sample, whatever the policy writes.
        max_model_len: Largest number of tokens of prompt and answer together.
    """

    window_tokens: int
    max_model_len: int

    @property
    def rule(self) -> str:
        """What the length depends on besides model and probes; a part of the series' key."""
        return f"auto, window_tokens {self.window_tokens}, max_model_len {self.max_model_len}"

    async def find(self, meter: EntropyMeter, model: str, seed: int) -> int:
        """The longest answer, in tokens, from the answers of `model` to the meter's probes.

        Raises:
            EngineError: A probe could not be sampled; a prompt may be too long for the engine.
        """
        prompts = await meter.sample(model, seed=seed, max_tokens=1)
        room = self.max_model_len - max(len(sample.prompt_ids) for sample in prompts)
        limit = max(1, min(room, self.window_tokens // len(meter.probes)))
        answers = await meter.sample(model, seed=seed, max_tokens=limit)
        typical = np.quantile([len(sample.token_ids) for sample in answers], ENDED, method="higher")
        return min(limit, max(LEAST_TOKENS, int(typical)))
