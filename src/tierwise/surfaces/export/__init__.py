"""Routes for other programs: LiteLLM's proxy, flagd, plain JSON and YAML, environment variables; and policies from LiteLLM."""
