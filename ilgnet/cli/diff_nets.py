"""Show how two prototxts differ, layer by layer.

Example:
  ilgnet diff-nets prototxt/v1bn/deploy.prototxt prototxt/noinc/deploy.prototxt
"""

from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.figures import net_diff
from torchcaffe.base import log
from torchcaffe.formats.upgrade import read_net


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
    parser.add_argument("nets", nargs=2, type=Path, metavar="NET.prototxt")
    paths = parser.parse_args(argv).nets
    log.set_level(1)
    first, second = map(read_net, paths)
    titles = (paths[0].parent.name, paths[1].parent.name) if paths[0].name == paths[1].name else map(str, paths)
    print("\n".join(net_diff.lines(first, second, tuple(titles))))
    return 0
