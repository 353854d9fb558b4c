"""Many adapters of one backbone in one compiled program."""
