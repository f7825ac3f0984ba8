"""The machine around the service: launchd, logs, files, devices, sleep."""
