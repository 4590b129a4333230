"""`python -m docsite`: builds the site."""

import subprocess
import sys

from docsite.build import OUTPUT, assemble, render

try:
    assemble(OUTPUT)
    print(f"the site is {render(OUTPUT)}")
except subprocess.CalledProcessError as error:
    sys.exit(error.returncode)
