"""ILGNet: nets, data, training, tests and the ranking of photos, as the program `ilgnet` and as functions."""

from typing import Any

__all__ = ["score"]
__version__ = "0.1.0"  # of the distribution


def __getattr__(name: str) -> Any:
    """`from ilgnet import score` without loading an engine for those who only read logs."""
    if name == "score":
        from ilgnet.scoring.scorers import score

        return score
    raise AttributeError(f"module 'ilgnet' has no attribute {name!r}")
