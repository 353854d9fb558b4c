"""A compiled program read as text: its instructions, products, collectives, memory, and the least it could need."""
