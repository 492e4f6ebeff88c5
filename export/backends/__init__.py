"""Backends: how a file is made; one module a format."""
