"""Many machines: logs priced, batches swept and calibrations' intervals drawn on a Ray cluster; docs/scale.md.

    kvsim.scale.price("runs/", "prices/", model="Qwen/Qwen3-8B", gpu="h100-sxm", ray="auto")
    kvsim.scale.sweep(batch, points, ray="auto", model="Qwen/Qwen3-8B", gpu="h100-sxm")
    with kvsim.scale.resampling(ray="auto"): ...

``ray`` is the address of a cluster ("host:6379", "ray://host:10001"), ``"auto"`` for the one that this machine belongs
to, ``"local"`` for one of this machine's cores that ends with the call. Without it the same is done in this process,
and the same bytes come out. Ray and pyarrow come with ``pip install 'kvsim[scale]'``.
"""

from __future__ import annotations

from kvsim.scale.manifest import Manifest
from kvsim.scale.on_ray import resampling, sweep
from kvsim.scale.run import price

__all__ = ["Manifest", "price", "resampling", "sweep"]
