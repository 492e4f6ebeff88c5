"""Targets: which backends a device class gets; one module a target."""
