"""What people get to see of runs: tables, curves and pages."""
