"""``python -m trio_gateway``: see ``trio_gateway.cli``."""

import sys

from trio_gateway.cli import main

sys.exit(main())
