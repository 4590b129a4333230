"""Puts the site's pages together and has Zensical build them, strictly: a link that leads nowhere is an error."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from docsite.commands import commands_page
from docsite.errors import errors_page
from docsite.http_api import http_page
from docsite.nav import Entry, existing, pages
from docsite.notebooks import notebook_page
from docsite.settings import settings_page
from reheatd.api.openapi import document

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "build" / "docs"
"""Folder of the whole build, which git ignores; the site is `site` in it."""

GENERATED: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings_page,
    "reference/commands.md": commands_page,
    "reference/http.md": http_page,
    "reference/errors.md": errors_page,
}
FRAGMENTS = ("experiment/*.md", "experiment/*.json")
"""Files of `docs/` that are parts of a page and no pages."""

# Fonts and scripts come with the site: it works without a network.
CONFIGURATION = """\
[project]
site_name = "reheatd"
site_description = "Keeps a served RL policy from collapsing"
docs_dir = "pages"
site_dir = "site"
use_directory_urls = false
nav = {nav}

[project.theme]
language = "en"
font = false
features = ["content.code.copy", "navigation.footer", "navigation.sections", "navigation.top", "search.highlight"]

[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"
toggle.icon = "lucide/sun"
toggle.name = "Dark"

[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"
toggle.icon = "lucide/moon"
toggle.name = "Light"

[project.extra]
generator = false

[project.plugins.offline]

[project.markdown_extensions]
attr_list = {{}}
md_in_html = {{}}
sane_lists = {{}}
pymdownx.highlight = {{}}
pymdownx.superfences = {{}}

[project.markdown_extensions.toc]
permalink = true
slugify = {{ object = "pymdownx.slugs.slugify", kwds = {{ case = "lower" }} }}
"""


def assemble(output: Path) -> None:
    """Writes pages and configuration into a folder, whose former content goes."""
    shutil.rmtree(output, ignore_errors=True)
    folder = output / "pages"
    ignored = {str(file) for pattern in FRAGMENTS for file in (ROOT / "docs").glob(pattern)}
    shutil.copytree(
        ROOT / "docs", folder, ignore=lambda at, names: [name for name in names if str(Path(at) / name) in ignored]
    )
    shutil.copy(Path(__file__).parent / "pages" / "index.md", folder)
    for name, make in GENERATED.items():
        _write(folder / name, make())
    _write(folder / "reference" / "openapi.json", json.dumps(document(), indent=2))
    for notebook in sorted((ROOT / "examples").glob("*.ipynb")):
        _write(folder / "notebooks" / f"{notebook.stem}.md", notebook_page(notebook))
    kept = existing(folder)
    for missing in sorted(set(pages()) - set(pages(kept))):
        print(f"reheatd: docs/{missing} is in the navigation, and not there yet; it is left out", file=sys.stderr)
    (output / "zensical.toml").write_text(CONFIGURATION.format(nav=_toml(kept)), encoding="utf-8")


def render(output: Path) -> Path:
    """Has Zensical build what `assemble` wrote; the page to open.

    Raises:
        subprocess.CalledProcessError: A link leads nowhere, or the build failed otherwise. What is wrong is printed.
    """
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    subprocess.run([*command, "--config-file", str(output / "zensical.toml")], check=True)
    return output / "site" / "index.html"


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _toml(entries: tuple[Entry, ...]) -> str:
    # A JSON string is a TOML string.
    return "[" + ", ".join(f"{{ {json.dumps(title)} = {_value(target)} }}" for title, target in entries) + "]"


def _value(target: "str | tuple[Entry, ...]") -> str:
    return json.dumps(target) if isinstance(target, str) else _toml(target)
