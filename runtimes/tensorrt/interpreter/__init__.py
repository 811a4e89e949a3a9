"""Executes the graph that a Jetson bundle ships, so that its FP16 arithmetic is judged without a Jetson."""
