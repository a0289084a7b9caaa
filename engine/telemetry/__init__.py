"""The telemetry of a process: log lines and spans."""
