"""Stylize webcams and streams as they come: always the newest frame; older ones are dropped."""
