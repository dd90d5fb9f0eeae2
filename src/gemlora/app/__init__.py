"""The composition root, the only place that constructs what lives long: `server.py` starts the engine of `backend.py`,
and only then imports `application.py`, which connects the rest to it while the engine's process loads the model.
"""
