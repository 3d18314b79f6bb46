"""Writes tests/bvlc/goldens/net_spec/NAME.prototxt: the nets of net_spec_examples.py as pycaffe's net_spec makes
them and Caffe prints them. Run by a Python that has BVLC's pycaffe, with Caffe's programs on PATH:

    python3 tests/bvlc/make_net_spec_goldens.py tests/bvlc/goldens/net_spec
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import caffe
from net_spec_examples import EXAMPLES


def main(folder: Path) -> None:
    for example in EXAMPLES:
        path = folder / (example.__name__ + ".prototxt")
        path.write_text(str(example(caffe)))
        # str() prints a float32 with all its 17 digits; Caffe's own programs print through C++, as we do.
        subprocess.run(["upgrade_net_proto_text", path, path], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
