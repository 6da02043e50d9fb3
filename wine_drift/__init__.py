"""wine-drift: a scheduled job that watches a model in production and keeps it good."""
