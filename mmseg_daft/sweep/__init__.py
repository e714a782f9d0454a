"""The paper's search for learning rates: what to run, what a folder says was run, what came out.

Standard library alone (and matplotlib for the curves): jobs on a cluster carry this code with them and start at once.
"""
