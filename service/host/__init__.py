"""The machine that the service runs on: launchd, logs, model files, the device, sleep."""
