"""The documentation site: the pages of `docs/`, and pages that are made from the code; `make docs` builds it."""
