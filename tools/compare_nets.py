import sys

from ilgnet.cli.compare_nets import main
from torchcaffe.base.errors import run_main

run_main(lambda: main(sys.argv[1:]))
