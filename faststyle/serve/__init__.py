"""An HTTP service: a photo and the name of a style in, the stylized picture out.

`server.py` listens and stops in good order, `app.py` speaks HTTP. `wanted.py` reads the options of
a request, `service.py` takes it from body to picture. `worker.py` runs the networks, `styles.py`
lists styles and keeps some loaded. `metrics.py` counts, `page.py` is the page for people.
"""
