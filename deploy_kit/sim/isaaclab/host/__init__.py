"""Isaac Lab's side: its launch, tasks that it registers, and its environments as seen from outside."""
