from torch_convops.cli import main

main(prog_name="convops")
