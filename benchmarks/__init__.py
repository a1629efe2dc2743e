"""What it costs, as ratios from one interleaved run: `python -m benchmarks AREA [--quick] [--json FILE]`."""
