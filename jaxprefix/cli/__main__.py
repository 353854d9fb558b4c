"""`python -m jaxprefix.cli`."""

import sys

from jaxprefix.cli.main import main

sys.exit(main())
