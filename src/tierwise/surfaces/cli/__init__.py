"""The `tierwise` command: one module per command, each with a `command`, loaded only when it is called."""
