"""The lifecycle of a run and the manager that writes its last word once."""
