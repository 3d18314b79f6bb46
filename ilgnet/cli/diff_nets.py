"""Say how two prototxts differ: which layers one of them alone has, and which are not the same."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ilgnet.figures import net_diff
from torchcaffe.base import log
from torchcaffe.base.errors import run_main
from torchcaffe.formats.upgrade import read_net


def main(argv: list) -> int:
    parser = argparse.ArgumentParser(prog="diff_nets.py", description=__doc__)
    parser.add_argument("nets", nargs=2, type=Path, metavar="NET.prototxt")
    paths = parser.parse_args(argv).nets
    log.set_level(1)
    nets = [read_net(path) for path in paths]
    titles = (paths[0].parent.name, paths[1].parent.name) if paths[0].name == paths[1].name else map(str, paths)
    print("\n".join(net_diff.lines(*nets, tuple(titles))))
    return 0


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]))
