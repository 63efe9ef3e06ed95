"""From books and commands to new books and outcomes, by subject. Pure."""
