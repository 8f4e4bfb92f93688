"""What sessions of a shard keep of what they have read, so that they can be put back there."""
