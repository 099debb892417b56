from .fit import fit as fit, History as History
from .step import make_step as make_step
