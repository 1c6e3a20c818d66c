"""Image files of strangers: which are opened, which cost too much, and upright RGB from them."""
