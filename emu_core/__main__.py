"""`python -m emu_core` is `emu-video`."""

import sys

from .cli import main

sys.exit(main())
