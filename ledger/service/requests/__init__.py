"""What callers send, checked: one module for each noun. `fields` has what requests share."""
