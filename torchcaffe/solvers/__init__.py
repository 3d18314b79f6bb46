"""The solvers, snapshots, and training in several processes."""
