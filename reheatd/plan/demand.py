"""What a configuration asks of the machine."""

import sys

from reheatd.config import Settings
from reheatd.errors import BadInputError
from reheatd.plan.fit import Demand
from reheatd.plan.memory import Adapters
from reheatd.plan.shape import PolicyShape
from reheatd.plan.speed import Rollouts

PROMPT_TOKENS = 512
"""Tokens of the longest prompts, where nothing says how long they are."""
ASSUMED_TOKENS = 4096
"""Tokens of the longest answers where jobs find them, unless the policy was made for less than twice as many."""


def is_assumed(settings: Settings) -> bool:
    """Whether the length of answers is still to be found, so that a plan has to assume one."""
    return "auto" in (settings.rl.max_tokens, settings.reheat.max_tokens)


def demand_of(
    settings: Settings, shape: PolicyShape, *, prompt_tokens: int | None = None, tokens: int | None = None
) -> Demand:
    """The adapters, rollouts and processes of a configuration.

    Args:
        prompt_tokens: Tokens of the longest prompts; default: what `policy.max_model_len` leaves beside the answers,
            or `PROMPT_TOKENS` if it is "auto", but no more than half of what the policy was made for.
        tokens: Tokens of the longest answers; default: those of the job that samples longer ones. Where jobs find the
            length, `ASSUMED_TOKENS` or half of what the policy was made for, whichever is less.

    Raises:
        BadInputError: Prompts and answers are longer than what the policy was made for.
    """
    engine, lora, rl = settings.engine, settings.lora, settings.rl
    length, made_for = settings.policy.max_model_len, shape.positions or sys.maxsize
    if tokens is None:
        # Without a length of prompts, these share with the answers what is served.
        shared = made_for if prompt_tokens is not None or length == "auto" else length
        assumed = min(ASSUMED_TOKENS, shared // 2)
        tokens = max(assumed if asked == "auto" else asked for asked in (rl.max_tokens, settings.reheat.max_tokens))
    if prompt_tokens is None:
        prompt_tokens = min(PROMPT_TOKENS, made_for // 2) if length == "auto" else max(1, length - tokens)
    if shape.positions is not None and prompt_tokens + tokens > shape.positions:
        raise BadInputError(
            f"prompts of {prompt_tokens} and answers of {tokens} tokens are more than the {shape.positions} that the "
            "policy was made for; choose shorter ones",
            param="max_tokens",
        )
    return Demand(
        shape=shape,
        adapters=Adapters(engine.max_loras, engine.max_lora_rank, lora.rank, tuple(lora.target_modules)),
        rollouts=Rollouts(rl.prompts_per_step, rl.group_size, prompt_tokens, tokens),
        workers=settings.workers.count,
        max_num_seqs=engine.max_num_seqs,
        kv_cache_bytes=engine.kv_cache_bytes,
        checkpointing=settings.workers.gradient_checkpointing,
        staleness=rl.staleness,
    )
