"""The program that proves the speed: `python -m tests.benchmarks --db URL`; see docs/benchmarks.md."""
