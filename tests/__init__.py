"""The tests of statelatch."""
