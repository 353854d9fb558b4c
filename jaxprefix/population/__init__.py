"""Many runs in one program."""

from jaxprefix.population.members import grid
from jaxprefix.population.population import PopulationResult, train_population

__all__ = ["PopulationResult", "grid", "train_population"]
