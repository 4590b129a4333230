"""A task in which every group of rollouts teaches something, and almost every rollout is as long as it may be."""

import json
import os
from pathlib import Path
from typing import Any

REWARD = '''
def reward(completion: str, answer: str) -> float:
    """Share of ASCII letters, which differs between any two completions."""
    return sum(c.isascii() and c.isalpha() for c in completion) / max(len(completion), 1)
'''


def story_task(folder: Path) -> dict[str, Any]:
    """Writes the problems and the reward to `folder`, which processes started from now on import it from.

    Returns:
        The table `task` of a configuration; what is measured before and after training is little.
    """
    (folder / "letters.py").write_text(REWARD)
    problems = [{"prompt": f"Write a story about the number {number}.", "answer": ""} for number in range(200)]
    path = folder / "task.jsonl"
    path.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), str(folder), os.environ.get("PYTHONPATH", "")])
    return {"path": str(path), "reward": "letters:reward", "eval_count": 4, "eval_samples": 1}
