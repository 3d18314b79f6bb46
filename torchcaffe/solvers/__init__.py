"""The solvers, their snapshots, and training in several processes."""
