"""Step of `bench.gpu_check` with the comparisons of `bench.distill`, small and in one process."""

from bench.distill import TAU
from bench.distill_sides import reheatd_side, trl_side
from bench.gpu_steps import Check, Figures
from bench.loss_sides import SIDES, measure
from bench.rollout_file import write_rollouts
from bench.sides import seconds


def distill(check: Check) -> Figures:
    """The fused loss and a step of TS-OPSD beside the plain loss, Liger's and TRL's."""
    return {**losses(check), **steps(check)}


def losses(check: Check) -> Figures:
    """The loss alone, in bfloat16; Liger's is for CUDA only."""
    sides = ["fused", "naive", "trl", *(["liger"] if check.device == "cuda" else [])]
    tokens, width = check.size.speed
    figures: Figures = {}
    for vocabulary in check.size.vocabularies:
        runs = {side: measure(SIDES[side], tokens, width, vocabulary, rounds=4) for side in sides}
        figures[f"loss_ms_v{vocabulary}"] = 1e3 * seconds(runs["fused"])
        figures[f"loss_peak_mib_v{vocabulary}"] = runs["fused"]["peak_mib"]
        for side in sides[1:]:
            figures[f"loss_time_vs_{side}_v{vocabulary}"] = seconds(runs["fused"]) / seconds(runs[side])
            figures[f"loss_peak_mib_{side}_v{vocabulary}"] = runs[side]["peak_mib"]
    return figures


def steps(check: Check) -> Figures:
    """Whole steps of training on the same rollouts. TRL runs with gradient checkpointing and without."""
    size, model = check.size, check.policy
    file = check.scratch / "rollouts.json"
    write_rollouts(file, prompts=size.prompts, n=1, max_tokens=size.max_tokens, model=model)
    ours = reheatd_side(file, TAU, 3, model=model)
    rivals = [
        trl_side(file, TAU, 3, checkpointing=checkpointing, batch=min(8, size.prompts), model=model)
        for checkpointing in (False, True)
    ]
    return {
        "step_s": seconds(ours),
        "step_speedup_vs_trl": min(map(seconds, rivals)) / seconds(ours),
        "step_peak_mib": ours["peak_mib"],
        "step_peak_mib_trl": min(rival["peak_mib"] for rival in rivals),
        "loss_vs_trl": ours["loss"] / rivals[0]["loss"],
    }
