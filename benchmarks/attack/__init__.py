"""``make attack``: strangers who mean harm, and what those beside them feel of it."""
