"""Which matrix gets which format: measured sensitivity, an exact knapsack at a byte budget, and a search over both."""
