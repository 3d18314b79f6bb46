from ilgnet.cli.plot_log import main
from torchcaffe.base.errors import run_main

run_main(main)
