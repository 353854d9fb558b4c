"""jaxprefix: adapt frozen Transformers with virtual tokens in JAX.

Legend of dimensions, used in every signature:
`B` batch, `T` query tokens, `S` key tokens, `P` virtual tokens, `L` layers, `H` heads, `K` key/value heads,
`D` model width, `E` head width, `V` vocabulary, `C` labels.
"""
