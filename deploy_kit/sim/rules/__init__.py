"""Rules of the racing task on arrays over all drones, for simulators whose state lies in numpy."""
