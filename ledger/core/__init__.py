"""The pure core: nouns, decision, journal, alerts, forecast. Knows no SQL, no HTTP and no clock."""
