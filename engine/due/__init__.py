"""Due messages: customers to examine, waiting messages, and their outcomes."""
