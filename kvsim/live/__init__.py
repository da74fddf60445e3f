"""Measures a running vLLM engine, over HTTP or in this process, for :mod:`kvsim.calibrate` to fit.

:mod:`kvsim.live.campaign` is the way in; needs the extra ``live`` (``pip install 'kvsim[live]'``).
"""
