"""Multiplications and additions of a program's dot products (`least_flops` says the least that an update can need).

Counted is the program that runs: the optimised HLO of the compiled function, after common subexpressions and dead code
are gone. The compiler's own `cost_analysis` counts the body of a loop once; here every computation is counted as often
as it is called, a loop's body as often as it runs. Dot products are found wherever they are: on their own, inside
fusions, or handed to a library (a custom call that names its dimensions as a dot does).
"""

import jax

from jaxprefix.analysis.hlo import Module
from jaxprefix.analysis.products import product_flops


def dot_flops(compiled: jax.stages.Compiled) -> int:
    """FLOPs (two for each multiply-add) of all dot products that one call of a compiled function runs.

    Of a conditional every branch is counted.

    Raises:
      ValueError: a loop whose number of turns the compiler does not know, a library call that hides its sizes, or a
        backend whose programs have no text.
    """
    text = compiled.as_text()
    if text is None:
        raise ValueError("the backend has no text of the compiled function, so its products cannot be counted")
    return product_flops(Module(text))
