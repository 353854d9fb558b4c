"""Every test is also a shape test: the package's jaxtyping annotations are checked at run time here, and only here."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook("jaxprefix", "beartype.beartype")
