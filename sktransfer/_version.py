"""The version, in the one place that packaging reads; it must not import anything."""

__version__ = "0.1.0.dev0"
