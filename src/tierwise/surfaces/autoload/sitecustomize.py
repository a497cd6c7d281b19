"""Loaded by an interpreter that `tierwise run` starts: instruments it, then gives way to the environment's own module."""

import os
import sys


def _instrument() -> None:
    try:
        import tierwise

        tierwise.instrument(task=os.environ.get("TIERWISE_TASK") or None)
    except ImportError as error:
        sys.stderr.write(f"tierwise run: this Python cannot import tierwise ({error}): {sys.executable}\n")
    except tierwise.TierwiseError as error:
        sys.stderr.write(f"tierwise run: not instrumented: {error}\n")


def _next_sitecustomize() -> None:
    """Run the module that this one hides."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.dirname(os.path.abspath(__file__))
    path = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    found = PathFinder.find_spec("sitecustomize", path)
    if found is not None and found.loader is not None:
        module = module_from_spec(found)
        sys.modules["sitecustomize"] = module
        found.loader.exec_module(module)


try:
    _next_sitecustomize()
finally:
    _instrument()
