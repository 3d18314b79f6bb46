from ilgnet.cli.log_to_tensorboard import main
from torchcaffe.base.errors import run_main

run_main(main)
