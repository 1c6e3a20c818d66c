"""How fast and how light; each prints its figures."""
