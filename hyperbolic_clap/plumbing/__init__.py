"""What every script shares: flags and configs, errors and exit codes, whole-or-nothing files, the device, ranks."""
