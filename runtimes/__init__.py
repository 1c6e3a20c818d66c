"""One room per runtime; each knows how to run its networks, and how to build them."""
