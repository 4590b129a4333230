"""Presets: named sets of options for one kind of job."""

from collections.abc import Mapping
from typing import Any

PAPER_REHEAT: Mapping[str, Any] = {
    "tau": 1.2,
    "target_ratio": 0.15,
    "teacher": "live",
    "divergence": "forward_kl",
    "min_p": None,
    "learning_rate": 1e-6,
    "warmup_steps": 0,
    "max_grad_norm": 1.0,
    "prompts_per_step": 1024,
    "max_tokens": 4096,
    "refresh_every": 1,
}
"""TS-OPSD in arXiv 2606.00755, which trains all weights of 4B and 8B models."""

PAPER_RL: Mapping[str, Any] = {
    "learning_rate": 2e-6,
    "warmup_steps": 10,
    "max_grad_norm": 1.0,
    "prompts_per_step": 64,
    "group_size": 8,
    "epochs": 1,
    "max_tokens": 8192,
    "temperature": 1.0,
    "normalisation": "tokens",
    "kl_coef": 0.0,
}
"""RL (DAPO) in the same paper. A step there is one update, so its clip of 0.2 and 0.28 never acts. Its weight decay of
0.1, its dual clip and its penalty for overlong answers have no option here."""
