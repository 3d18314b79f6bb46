from ilgnet.cli.make_lmdb import main
from torchcaffe.base.errors import run_main

run_main(main)
