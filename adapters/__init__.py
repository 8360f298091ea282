"""Between us and a user's network: how its photos are prepared, how its scores are read."""
