"""Every test is also a shape test: the package's jaxtyping annotations are checked at run time here, and only here."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile many tiny programs and run each a few times: LLVM's optimisations cost more than they give.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

from jaxtyping import install_import_hook

install_import_hook("jaxprefix", "beartype.beartype")
