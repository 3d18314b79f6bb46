"""ILGNet: nets, data, training, tests and the ranking of photos, as the program `ilgnet` and as functions."""

from typing import Any

__all__ = ["Score", "Scorer", "score"]
__version__ = "0.1.0"  # of the distribution


def __getattr__(name: str) -> Any:
    """`from ilgnet import Scorer` without loading an engine for those who only read logs."""
    if name in __all__:
        from ilgnet.scoring import api

        return getattr(api, name)
    raise AttributeError(f"module 'ilgnet' has no attribute {name!r}")
