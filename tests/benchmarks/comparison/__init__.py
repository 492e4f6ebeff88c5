"""The statistics of `benchmarks compare`, and what it makes of records."""
