"""One commit's CPU per step against another's, on one machine at one time."""
