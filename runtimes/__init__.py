"""Shipped runtimes, one package each: running networks, and building them."""
