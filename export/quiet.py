"""Keeps messages off the terminal that torch and torchao give on import, about parts that edgecl does not use."""

import logging
import warnings

logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"torch(ao)?\.")
