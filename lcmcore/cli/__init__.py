"""The `lcm` command; nothing is imported here: each subcommand imports only what it needs."""
