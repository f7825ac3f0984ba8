"""`mlxd doctor --selftest`: what the machine, the system and a real service do, and the report."""
