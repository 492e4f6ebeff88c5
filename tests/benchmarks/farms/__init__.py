"""Farms without farms: real requests held against service models and servers on this machine, real streams."""
