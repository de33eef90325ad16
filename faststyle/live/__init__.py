"""Webcams and streams, stylized as they come: the newest frame first, what comes too fast is dropped."""
