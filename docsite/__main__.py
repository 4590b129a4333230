"""`python -m docsite`: builds the site."""

import subprocess
import sys

from docsite.build import build

try:
    print(f"the site is {build()}")
except subprocess.CalledProcessError as error:
    sys.exit(error.returncode)
