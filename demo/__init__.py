"""``make demo``: two rendered domains, fine-tuned and compared."""
