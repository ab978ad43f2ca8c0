"""Where a device's numbers part from the CPU's: each module, then each operator, from the same inputs."""
