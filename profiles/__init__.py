"""Facts as data: GPUs, model architectures, calibrations and the measurements they rest on."""
