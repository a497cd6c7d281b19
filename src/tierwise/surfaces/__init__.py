"""What people touch: the command line, the report, the demo and the bench."""
