"""What is done for the sessions of a store, beside their steps."""
