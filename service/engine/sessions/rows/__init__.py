"""The rows of one arena, and of host memory: who has one, who waits for one, and who leaves his."""
