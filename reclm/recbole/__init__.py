"""RecBole 1.2.0, unmodified, on our data and with our profiles."""
