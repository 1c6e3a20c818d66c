"""Helpers without knowledge of the field; nothing is imported here."""
