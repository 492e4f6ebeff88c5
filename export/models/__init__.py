"""The models this repository knows: one JSON file per size, and the trained tiny checkpoint."""
