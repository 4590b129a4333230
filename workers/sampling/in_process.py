"""Samples rollouts in the trainer's own process, with transformers, for experiments and tests where no engine runs.

The sampler has the interface of `workers.sampling.served.ServedSampler`. It samples from the student as it is at that
moment, so publishing only renames the student. While it samples, the student's LoRA is merged into a copy of the
weights; a policy for which that copy is too large is sampled by an engine.

**What a seed means.** Sequences are decoded in chunks of as many rows as `LOGITS_ELEMENTS` and `MAX_ROWS` allow, in
order. Every step of a chunk draws one exponential variate for every sequence of the chunk and every token of the
vocabulary, [B, V], whether or not the sequence has ended; a chunk whose sequences have all ended draws no more. A
sequence's next token is the one with the largest ratio of probability to variate. This is what `torch.multinomial`
draws from [B, V] probabilities. So the tokens of a seed do not depend on which prefixes are computed together. At
temperature 0, nothing is drawn.

Axes: B sequences, R distinct prefixes of those that have not ended, V vocabulary, D hidden size, T tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from reheatd.entropy.estimators import clustered_interval
from reheatd.errors import TrainingDivergedError
from reheatd.json_lines import Messages, Prompts
from reheatd.measures import EntropyEstimate
from workers.lora import product
from workers.policy import Policy
from workers.sampling.background import Background
from workers.sampling.decoders import Decoder, Decoders
from workers.sampling.prefixes import Prefixes
from workers.sampling.rollout import Rollout

Result = TypeVar("Result")

LOGITS_ELEMENTS = 1 << 25
"""Elements of the largest [rows, V] tensor of a decoding step, which limits how many sequences are decoded at once."""
MAX_ROWS = 512


class Codec(Protocol):
    """Turns prompts into token ids, and completions into text."""

    @property
    def stop_ids(self) -> frozenset[int]: ...

    def encode(self, messages: Messages) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> str: ...


class ChatCodec:
    """The codec of a tokenizer with a chat template."""

    def __init__(self, policy: Policy) -> None:
        self._tokenizer = cast(Any, policy.tokenizer)
        self.stop_ids = policy.stop_ids

    def encode(self, messages: Messages) -> list[int]:
        return list(
            self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True).input_ids
        )

    def decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)


@dataclass
class Completion:
    token_ids: list[int]
    logprobs: list[float]
    entropies: list[float]
    stopped: bool


class InProcessSampler:
    """Samples from a `Policy`.

    Args:
        probes: Prompts that `measure_entropy` samples.
        probe_tokens: Tokens of a probe's longest completion.
    """

    def __init__(
        self,
        policy: Policy,
        codec: Codec,
        probes: Sequence[Messages],
        *,
        probe_tokens: int = 48,
        confidence: float = 0.95,
    ) -> None:
        self.model = "in-process-0"
        self._policy = policy
        self._decoders = Decoders(policy)
        self._codec = codec
        self._probes = probes
        self._probe_tokens = probe_tokens
        self._confidence = confidence
        self._stop_ids = torch.tensor(sorted(codec.stop_ids), dtype=torch.long, device=policy.device)

    def publish(self, policy: Policy, step: int) -> None:
        self.model = f"in-process-{step}"

    def sample(
        self, prompts: Prompts, *, n: int, max_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> list[list[Rollout]]:
        encoded = [ids for ids in map(self._codec.encode, prompts) for _ in range(n)]
        completions = self._complete(encoded, max_tokens, temperature, top_p, seed)
        rollouts = [
            Rollout(
                prompt_ids=prompt,
                token_ids=completion.token_ids,
                text=self._codec.decode(completion.token_ids),
                logprobs=completion.logprobs,
                model=self.model,
                truncated=not completion.stopped,
                entropies=completion.entropies,
            )
            for prompt, completion in zip(encoded, completions, strict=True)
        ]
        return [rollouts[i : i + n] for i in range(0, len(rollouts), n)]

    def in_background(self, work: Callable[[], Result]) -> Background[Result]:
        """Does the work at once, because training is about to change the weights that it samples from."""
        return Background.done(work())

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        """Exact full-vocabulary entropy of the states visited on the probes, with an interval clustered by sequence."""
        encoded = [self._codec.encode(messages) for messages in self._probes]
        sequences = [c.entropies for c in self._complete(encoded, self._probe_tokens, 1.0, 1.0, seed)]
        return clustered_interval(sequences, self._confidence)

    def _complete(
        self, prompts: list[list[int]], max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> list[Completion]:
        generator = torch.Generator(self._policy.device).manual_seed(seed)
        completions: list[Completion] = []
        with torch.inference_mode(), self._decoders.merged() as new_decoder:
            for chunk in self._chunks(prompts):
                completions += self._decode(new_decoder(len(chunk)), chunk, max_tokens, temperature, top_p, generator)
        return completions

    def _chunks(self, prompts: list[list[int]]) -> list[list[list[int]]]:
        rows = max(1, min(MAX_ROWS, LOGITS_ELEMENTS // self._policy.head_VD.shape[0]))
        return [prompts[start : start + rows] for start in range(0, len(prompts), rows)]

    def _decode(
        self,
        decoder: Decoder,
        prompts: list[list[int]],
        max_tokens: int,
        temperature: float,
        top_p: float,
        generator: torch.Generator,
    ) -> list[Completion]:
        """Decodes one chunk of sequences token by token.

        Raises:
            TrainingDivergedError: The policy's distribution is not finite.
        """
        head_VD = self._policy.head_VD
        prefixes = Prefixes(decoder, prompts, head_VD.device)
        alive_B = torch.ones(len(prompts), dtype=torch.bool, device=head_VD.device)
        steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        while True:
            logprobs_RV = torch.log_softmax(product(prefixes.hidden_RD, head_VD, None).float(), -1)
            p_RV = logprobs_RV.exp()
            row_B = prefixes.row_B
            if temperature == 0:
                token_B = logprobs_RV.argmax(-1)[row_B]
            else:
                tempered_RV = p_RV if temperature == 1 else torch.softmax(logprobs_RV / temperature, -1)
                token_B = _draw(nucleus(tempered_RV, top_p)[row_B], generator)
            entropy_R = -p_RV.mul_(logprobs_RV).sum(-1)
            steps.append((token_B, logprobs_RV[row_B, token_B], entropy_R[row_B], alive_B))
            alive_B = alive_B & ~torch.isin(token_B, self._stop_ids)
            if len(steps) == max_tokens or not alive_B.any():
                break
            prefixes.append(token_B, alive_B, len(head_VD))
        tokens_BT, logprobs_BT, entropies_BT, present_BT = (
            torch.stack(parts, -1) for parts in zip(*steps, strict=True)
        )
        if not logprobs_BT.isfinite().all():
            raise TrainingDivergedError("the policy's distribution is not finite; lower the learning rate")
        columns = (tokens_BT, logprobs_BT, entropies_BT, present_BT.sum(-1), alive_B)
        return [
            Completion(tokens[:length], logprobs[:length], entropies[:length], stopped=not alive)
            for tokens, logprobs, entropies, length, alive in zip(*(column.tolist() for column in columns), strict=True)
        ]


def _draw(probabilities_BV: Tensor, generator: torch.Generator) -> Tensor:
    """Draws a token of every row as `torch.multinomial` does, but without its checks. Rows need not sum to 1."""
    variates_BV = torch.empty_like(probabilities_BV).exponential_(generator=generator)
    return torch.div(probabilities_BV, variates_BV, out=variates_BV).argmax(-1)


def nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """Keeps the most probable tokens of each row that together hold at least `top_p`, and sets the others to 0.

    This is nucleus sampling (arXiv 1904.09751). The rows are not normalised again.
    """
    if top_p == 1:
        return probabilities_BV
    sorted_BV, order_BV = probabilities_BV.sort(-1, descending=True)
    beyond_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p  # the tokens before it hold enough
    return probabilities_BV.masked_fill(torch.zeros_like(beyond_BV).scatter(-1, order_BV, beyond_BV), 0.0)
