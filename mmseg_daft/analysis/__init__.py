"""What fine-tuning did to a model: distortion of its features, change of its parameters, pictures."""
