"""Fold BatchNorm and Scale layers into convolutions.

The net gives the same answers, and is smaller and faster.

Example:
  ilgnet merge-bn --net out/demo/net/deploy.prototxt \\
    --weights out/demo/snapshots/demo_iter_200.caffemodel \\
    --out-net out/demo/merged.prototxt --out out/demo/merged.caffemodel
"""

from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.run import outputs
from ilgnet.weights import surgery
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import caffemodel, files, upgrade
from torchcaffe.proto import format_text


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
    parser.add_argument("--net", required=True, metavar="PROTOTXT", help="deploy net with BatchNorm layers")
    parser.add_argument("--weights", required=True, metavar="CAFFEMODEL", help="its weights")
    parser.add_argument("--out-net", required=True, type=Path, metavar="PROTOTXT")
    parser.add_argument("--out", required=True, type=Path, metavar="CAFFEMODEL")
    args = parser.parse_args(argv)
    outputs.check(args.out)
    outputs.check(args.out_net)
    net = upgrade.read_net(args.net)
    try:
        merged, arrays, folded = surgery.merge(net, surgery.read_weights(args.weights))
    except CaffeError as error:
        raise CaffeError(f"{args.net} with {args.weights}: {error}") from None
    if not folded:
        raise CaffeError(f"{args.net}: no BatchNorm follows a convolution")
    caffemodel.write_caffemodel(args.out, merged, arrays)
    files.write_bytes(args.out_net, format_text(merged).encode())
    print(f"folded BatchNorm into {len(folded)} convolutions; wrote {args.out_net} and {args.out}")
    return 0
