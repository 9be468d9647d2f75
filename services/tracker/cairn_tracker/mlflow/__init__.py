"""What MLflow's clients ask of the tracker in words of their own: its search grammar, and values as texts."""
