"""A comparison as JSON, as text for the terminal, as one page of HTML."""
