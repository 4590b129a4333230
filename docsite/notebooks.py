"""Notebooks as pages: their texts, their code and what it printed when they were last run."""

import json
from pathlib import Path
from typing import Any


def notebook_page(file: Path) -> str:
    """A notebook in Markdown."""
    parts: list[str] = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](../docs/", "](../"))  # docs/ is the site's root
        else:
            parts.append(f"```python\n{source}\n```")
            parts += [f"```text\n{text}\n```" for output in cell["outputs"] if (text := _text(output))]
    parts.append(
        f"*This page is the notebook `examples/{file.name}`. Run it beside a daemon to see what it prints now.*"
    )
    return "\n\n".join(parts) + "\n"


def _text(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return "".join(output["text"]).rstrip()
    return "".join(output.get("data", {}).get("text/plain", [])).rstrip()
