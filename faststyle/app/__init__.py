"""The web page of `faststyle app`: stylize, train and compare in a browser, with Gradio.

`server.py` listens and stops in good order, `page.py` puts the views together. `stylizing_view.py`,
`training_view.py` and `comparing_view.py` are what a person sees, `endpoints.py` what a program
calls. Behind them: `studio.py` paints photos, frames and videos, `thumbnails.py` shows each style,
`jobs.py` trains one style after the other in processes of their own, `run_log.py` reads how far
they are, `comparing.py` runs slow against fast. Small parts that they share: `options.py`,
`background.py`, `curves.py`, `parts.py`.
"""
