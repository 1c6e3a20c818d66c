"""The `lcm` command; nothing is imported here, so that each subcommand loads its own share."""
