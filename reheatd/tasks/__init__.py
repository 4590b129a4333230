"""Where a task's problems come from, and how their fields are read."""
