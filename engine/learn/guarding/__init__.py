"""What watches an experiment while it learns: guardrails that stop a variant, and changes of what arms earn."""
