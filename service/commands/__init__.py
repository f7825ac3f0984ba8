"""The commands of `mlxd`, one file each."""
