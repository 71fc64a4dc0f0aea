"""Flights in programs made for looking: viser in the browser, Rerun's viewer."""
