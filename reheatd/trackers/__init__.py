"""Experiment trackers: every job is a run in TensorBoard, Weights & Biases, MLflow or trackio."""
