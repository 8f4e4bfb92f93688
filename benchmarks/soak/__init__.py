"""``make soak``: callers come, step, vanish for as long as one likes, and nothing may grow."""
