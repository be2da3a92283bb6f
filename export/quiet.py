"""Keeps messages off the terminal that torch and torchao give about parts that edgecl does not use."""

import logging
import warnings

logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"torch(ao)?\.")
# torch's own, when it copies a graph; Python says that it comes from copyreg
warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
