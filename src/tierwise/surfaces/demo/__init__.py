"""The demo: a simulated gateway on localhost, driven and measured like a real one. Everything it shows is simulated."""
