"""What the tools share: choice of engine, preprocessing, scoring, metrics, log reading, surgery, HTML."""

from __future__ import annotations

from typing import Any

__all__ = ["score"]


def __getattr__(name: str) -> Any:
    """`from ilgnet import score` without loading an engine for those who only read logs."""
    if name == "score":
        from ilgnet.scoring.scorers import score

        return score
    raise AttributeError(f"module 'ilgnet' has no attribute {name!r}")
