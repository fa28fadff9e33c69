"""`python -m emu_core` is `emu-video`."""

import sys

from .cli.main import main

sys.exit(main())
