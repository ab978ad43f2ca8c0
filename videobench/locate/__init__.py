"""Find where a device's numbers deviate from the CPU's: every module, then its operators, from the same inputs."""
