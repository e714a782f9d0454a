"""Starting trainings: mmseg's own scripts, the ranks of a Slurm step, LP-FT's two stages, the shipped configs."""
