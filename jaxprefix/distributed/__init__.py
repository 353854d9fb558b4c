"""The mesh, constraints on activations, processes, and what of a global array lies on which."""
