"""Install real BVLC Caffe 1.0.0, which Debian 11 packages.

It goes to the user's cache folder and takes 1.4 GB. Needs a Debian machine and
root rights to install; using it afterwards needs neither. Does nothing if it is
there and works, and resumes an interrupted installation.

Example:
  ilgnet setup-bvlc
"""

from ilgnet.cli.arguments import make_parser
from ilgnet.run import bvlc_setup


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
    parser.add_argument(
        "--mirror", help=f"Debian mirror that has {bvlc_setup.SUITE} (default: from the apt sources here)"
    )
    print(f"real Caffe is in {bvlc_setup.set_up(parser.parse_args(argv).mirror)}")
    print("Next: use it with --engine bvlc, or compare the engines: make parity")
    return 0
