"""Fits the law's coefficients to measurements; needs scipy (``pip install 'kvsim[fit]'``)."""
