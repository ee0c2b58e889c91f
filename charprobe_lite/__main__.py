"""`python -m charprobe_lite`: the same as `charprobe-lite`."""

from charprobe_lite.eval.cli.main import main

main(prog_name="charprobe-lite")
