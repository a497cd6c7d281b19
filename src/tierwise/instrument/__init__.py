"""A client's call → `Call`: the hook, what it reads, and the task around it."""
