"""`python -m edgecl` is the `edgecl` command."""

import sys

from edgecl.cli import main

if __name__ == "__main__":
    sys.exit(main())
