"""Fields as numbers: signs, units, commas, and what stands for none."""
