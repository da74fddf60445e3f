"""Results as files for other eyes: pages, and traces for viewers of spans."""
