"""What a process says of itself while it runs: log lines and spans."""
