"""`python -m dhcli`: the same as `dh`, for launchers and where another program has that name."""

from dhcli.cli import main

main()
