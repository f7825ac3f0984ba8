"""The sections of the selftest: each measures one thing within its time."""
