"""`statelatch demo`: each way in which a run can end, shown on real work and a real fault."""

from statelatch.cli.demo.command import demo

__all__ = ["demo"]
