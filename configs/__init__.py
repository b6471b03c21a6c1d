"""The YAML configurations, as package data: ``importlib.resources.files("tamis.configs")``."""
