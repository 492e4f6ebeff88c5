"""The matrix of a night: its plan, its exports, its resuming."""
