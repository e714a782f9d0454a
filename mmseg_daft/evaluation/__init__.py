"""Which of several runs generalizes: their numbers on unseen domains and corruptions, and whether they differ."""
