"""The tests, laid out as the packages are. ROOT is the checkout, BVLC what real Caffe made and what made it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BVLC = ROOT / "tests" / "bvlc"
GOLDENS = BVLC / "goldens"
