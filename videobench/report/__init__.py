"""Report a comparison as JSON, as text for the terminal, and as one HTML page."""
