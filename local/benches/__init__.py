"""Benchmarks: each module measures one thing, with peers and floors in the same run."""
