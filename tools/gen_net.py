import sys

from ilgnet.cli.gen_net import main
from torchcaffe.base.errors import run_main

run_main(lambda: main(sys.argv[1:]))
