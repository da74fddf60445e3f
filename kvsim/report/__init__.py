"""What a result looks like elsewhere: an HTML page, and traces for other viewers."""
