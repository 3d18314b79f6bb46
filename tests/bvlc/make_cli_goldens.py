"""Records what real Caffe's programs say and write for the runs in cli_jobs.py, in tests/bvlc/goldens/cli.

python -m tests.bvlc.make_cli_goldens
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np

from tests.bvlc import cli_jobs, real

OUT = Path(__file__).resolve().parent / "goldens" / "cli"


def pictures(folder: Path) -> None:
    """a.png and b.png, the same everywhere."""
    for index, name in enumerate(("a.png", "b.png")):
        cv2.imwrite(str(folder / name), np.random.RandomState(index).randint(0, 256, (7, 6, 3)).astype(np.uint8))


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    records = {}
    for name, (files, commands) in cli_jobs.JOBS.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            pictures(folder)
            for path, text in files.items():
                (folder / path).write_text(text)
            lines: list[str] = []
            for command in commands:
                done = real.binary(*command, cwd=folder)
                lines += ["$ " + " ".join(command), *cli_jobs.normalise(done.stdout + done.stderr)]
            (OUT / f"{name}.log").write_text("\n".join(lines) + "\n")
            for database in cli_jobs.DATABASES:
                if (folder / database).exists():
                    data = (folder / database / "data.mdb").read_bytes()
                    records[database] = np.frombuffer(data, np.uint8)
            if (folder / "mean.binaryproto").exists():
                records["mean"] = np.frombuffer((folder / "mean.binaryproto").read_bytes(), np.uint8)
    np.savez_compressed(OUT / "databases.npz", **records)


if __name__ == "__main__":
    main()
