import sys

from ilgnet.cli.gen_solver import main
from torchcaffe.base.errors import run_main

run_main(lambda: main(sys.argv[1:]))
