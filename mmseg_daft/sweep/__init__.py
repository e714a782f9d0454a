"""The paper's search for learning rates: what to run next, what a folder says was run, and what came out."""
