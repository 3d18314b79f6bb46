"""Print a net's layers, parameters, cost and depth.

A row a layer: output shape, parameters, multiply-adds and receptive field.
Reads any Caffe net; data layers need no data.

Example:
  ilgnet summarize out/demo/net/deploy.prototxt --svg out/demo/net.svg
"""

from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.figures import drawing, summary
from ilgnet.run import engine, outputs
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import files, upgrade


def main(argv: list[str]) -> int:
    p = make_parser(__name__, quiet=True)
    p.add_argument("net", metavar="NET.prototxt")
    p.add_argument("--phase", choices=["train", "test"], default="test", help="phase of the net (default test)")
    p.add_argument("--svg", type=Path, metavar="FILE", help="also draw the net")
    p.add_argument("--engine", choices=engine.ENGINES, default="torch", help="computes the shapes (default torch)")
    args = p.parse_args(argv)
    caffe = engine.load_engine(args.engine)
    net = upgrade.read_net(args.net)
    if not net.layer:
        raise CaffeError(f"{args.net}: no layer in it")
    found = summary.summarize(caffe, net, getattr(caffe, args.phase.upper()), args.net)
    print(summary.table(found), end="")
    if args.svg:
        files.write_bytes(args.svg, drawing.svg(found).encode())
        outputs.say(f"wrote {args.svg}")
    return 0
