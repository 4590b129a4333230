"""`python -m docsite`: builds the site."""

import subprocess
import sys

from docsite.build import OUTPUT, assemble, render

try:
    assemble(OUTPUT)
    page = render(OUTPUT)
    print(f"the site is {page}; to search it, run `python -m http.server --directory {page.parent}`")
except subprocess.CalledProcessError as error:
    sys.exit(error.returncode)
