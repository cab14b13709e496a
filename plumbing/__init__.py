"""What every script shares: flags, errors and exit codes, whole-or-nothing files, the device, ranks."""
