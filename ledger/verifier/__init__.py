"""What an auditor or the client needs, with no database and no network."""
