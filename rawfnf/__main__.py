"""`python -m rawfnf`, the same as the command `rawfnf`."""

import sys

from .cli import main

sys.exit(main())
