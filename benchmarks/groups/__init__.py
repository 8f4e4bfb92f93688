"""What `make bench` measures, group by group."""
