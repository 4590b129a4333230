"""The page about error codes, from the same texts as `reheatd explain`."""

from cli.error_codes import error_codes
from docsite.markdown import code, page

INTRODUCTION = """\
Every error has a code: in `error.code` of the daemon's answers, and of what a command prints with `--json`.
`reheatd explain CODE` prints what this page says. The message beside the code names the field, its value and what to do
in that very case; read it first. Codes that are numbers come from the engine, for requests that it refused."""


def errors_page() -> str:
    """The page, in Markdown."""
    parts: list[str] = []
    for each in error_codes():
        facts = f"HTTP status {each.status}, exit code {each.exit_code}."
        parts.append(f"## {each.code}\n\n{' '.join(each.meaning)} {facts}\n\n**What to do:** {each.way_out}")
    known = ", ".join(f"[{code(each.code)}](#{each.code})" for each in error_codes())
    return page("Error codes", INTRODUCTION, known, *parts)
