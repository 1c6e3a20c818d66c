"""Where the documentation is, for messages and help that cite it."""


def page_address(path: str) -> str:
    """The address of a page, by its path in the repository: who installed a wheel has no docs/."""
    return f"https://github.com/lcmcore/lcmcore/blob/main/{path}"
