"""Whether two sets of runs differ: which of them may be compared, by which test, and how many sessions that takes."""
