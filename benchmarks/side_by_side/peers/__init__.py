"""What we measure ourselves against: one file a peer, each saying how it is built, how it is run and what it reads."""
