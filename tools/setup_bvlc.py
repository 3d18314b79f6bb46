from ilgnet.cli.setup_bvlc import main
from torchcaffe.base.errors import run_main

run_main(main)
