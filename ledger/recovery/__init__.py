"""Notice that the database lost something: heads of its journals are kept outside of it, and compared with it."""
