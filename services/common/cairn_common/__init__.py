"""What the four services share: plumbing, each module a noun."""
