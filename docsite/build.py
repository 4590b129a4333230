"""Puts the site's pages together and has MkDocs build them, strictly: a link that leads nowhere is an error."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
COMMENT = re.compile(r"<!--(?:(?!-->).)*-->", re.S)
COMMENT_LINE = re.compile(rf"^{COMMENT.pattern}\n", re.M | re.S)

# Fonts and scripts come with the site: it works without a network. Anchors are made as where the repository is shown.
CONFIGURATION = """\
site_name: reheatd
site_description: Keeps a served RL policy from collapsing
docs_dir: pages
site_dir: site
use_directory_urls: false
strict: true
nav: {nav}
theme:
  name: material
  font: false
  features: [content.code.copy, navigation.footer, navigation.sections, navigation.top, search.highlight]
  palette:
    - {{media: "(prefers-color-scheme: light)", scheme: default, toggle: {{icon: material/weather-sunny, name: Dark}}}}
    - {{media: "(prefers-color-scheme: dark)", scheme: slate, toggle: {{icon: material/weather-night, name: Light}}}}
extra:
  generator: false
extra_css: [tables.css]
plugins: [search]
validation:
  omitted_files: warn
  absolute_links: warn
  unrecognized_links: warn
  anchors: warn
markdown_extensions:
  - attr_list
  - md_in_html
  - sane_lists
  - tables
  - pymdownx.highlight
  - pymdownx.superfences
  - toc:
      permalink: true
      slugify: !!python/object/apply:pymdownx.slugs.slugify {{kwds: {{case: lower}}}}
"""


def assemble(output: Path) -> None:
    """Writes pages and configuration into a folder, whose former content goes."""
    shutil.rmtree(output, ignore_errors=True)
    folder = output / "pages"
    ignored = {str(file) for pattern in FRAGMENTS for file in (ROOT / "docs").glob(pattern)}
    shutil.copytree(
        ROOT / "docs", folder, ignore=lambda at, names: [name for name in names if str(Path(at) / name) in ignored]
    )
    for copied in folder.glob("*.md"):
        copied.write_text(_without_comments(copied.read_text(encoding="utf-8")), encoding="utf-8")
    for own in ("index.md", "tables.css"):
        shutil.copy(Path(__file__).parent / "pages" / own, folder)
    for name, make in GENERATED.items():
        _write(folder / name, make())
    _write(folder / "reference" / "openapi.json", json.dumps(document(), indent=2))
    for notebook in sorted((ROOT / "examples").glob("*.ipynb")):
        _write(folder / "notebooks" / f"{notebook.stem}.md", notebook_page(notebook))
    kept = existing(folder)
    for missing in sorted(set(pages()) - set(pages(kept))):
        print(f"reheatd: docs/{missing} is in the navigation, and not there yet; it is left out", file=sys.stderr)
    (output / "mkdocs.yml").write_text(CONFIGURATION.format(nav=json.dumps(_listed(kept))), encoding="utf-8")


def render(output: Path) -> Path:
    """Has MkDocs build what `assemble` wrote; the page to open.

    Raises:
        subprocess.CalledProcessError: A link leads nowhere, or the build failed otherwise. What is wrong is printed.
    """
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(output / "mkdocs.yml")]
    subprocess.run(command, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    return output / "site" / "index.html"


def _without_comments(text: str) -> str:
    """A page without HTML comments, before which Python-Markdown sees no table."""
    return COMMENT.sub("", COMMENT_LINE.sub("", text))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _listed(entries: tuple[Entry, ...]) -> list[dict[str, Any]]:
    """The navigation as MkDocs takes it."""
    return [{title: target if isinstance(target, str) else _listed(target)} for title, target in entries]
