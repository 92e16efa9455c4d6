"""Training of GRM: losses, the step, and the loop around it."""
