"""A night's matrix: planned from a file, exported by subprocess, run on owned phones and farms, kept in the store."""
