"""Tests of the benchmarks: the arithmetic, the files and the resuming; no speeds, which no test can hold."""
