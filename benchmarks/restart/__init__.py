"""How long it takes to bring very many sessions back: ``make restart``."""
