"""General helpers, without knowledge of diffusion models; nothing is imported here."""
