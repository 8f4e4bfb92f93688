"""What attackers do, a module for each kind; each adds its attacks to `ATTACKS`."""
