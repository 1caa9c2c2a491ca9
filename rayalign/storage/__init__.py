"""What a run leaves on disk, written such that a kill at any moment loses nothing that was promised."""
