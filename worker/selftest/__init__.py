"""The device's part of `mlxd doctor --selftest`, a program of its own: checks and measurements."""
