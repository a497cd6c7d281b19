"""Bench: suites of tasks, run in interleaved rounds through any OpenAI-compatible URL, measured by the instrumented client."""
