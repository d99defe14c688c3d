"""A mechanism and a task for hedgebench, from outside of it."""
